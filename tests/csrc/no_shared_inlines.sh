#!/bin/sh
# Usage: no_shared_inlines.sh OBJECTS (with ; between them). Fails if an object compiled with AVX defines a weak symbol.
found=0
for object in $(echo "$*" | tr ';' ' '); do
  case "$object" in *_avx*) ;; *) continue ;; esac
  weak=$(nm -C --defined-only "$object" | grep -E ' [VWuvw] ')
  if [ -n "$weak" ]; then
    echo "$object defines symbols that the linker may share:"
    echo "$weak"
    found=1
  fi
done
exit $found

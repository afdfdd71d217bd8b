// Whether this process may use the threads that OpenMP keeps.
#ifndef QUATRO_FORK_H
#define QUATRO_FORK_H

namespace quatro {

// True in a child of fork() until it becomes another program. The team of OpenMP threads that its parent had is not there, and
// waiting for it would never end: work is done on the calling thread alone.
bool in_forked_child();

}  // namespace quatro

#endif

import pytest
from datasets import Dataset
from peft import LoraConfig

from quatro.integrations.loading import load
from quatro.nn import Linear4bit


@pytest.mark.filterwarnings("ignore")
def test_sfttrainer_trains_a_4_bit_model_with_its_bf16_default(tmp_path):
    """TRL as its users write it; its bf16=True runs under autocast."""
    from importlib.resources import files

    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load(str(files("quatro.assets") / "base"))
    rows = Dataset.from_list([{"text": f"The lantern number {i} is green and bright."} for i in range(8)])
    config = SFTConfig(output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to="none", bf16=True, use_cpu=True,
                       learning_rate=1e-2, logging_steps=1, save_strategy="no", disable_tqdm=True)  # fmt: skip
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert sum(isinstance(module, Linear4bit) for module in trainer.model.modules()) == 4 * 7

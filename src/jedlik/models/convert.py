"""Converts GGUF to a Hugging Face directory, in a process of its own: the caller imports no torch, its memory stays.

Run as `python -m jedlik.models.convert FILE.gguf FOLDER`.
"""

import subprocess
import sys
from pathlib import Path

from jedlik.core.errors import ConfigError
from jedlik.models.gguf_header import unknown_rule
from jedlik.models.pretokenizer import restore
from jedlik.models.progress import Progress, Report


def convert(gguf: Path, folder: Path, report: Report) -> None:
    """Write config, weights (bfloat16) and tokenizer of `gguf` into `folder`. Raises ConfigError with a remedy."""
    run_child("jedlik.models.convert", [str(gguf), str(folder)], f"converting {gguf.name}", report)


def run_child(module: str, arguments: list[str], text: str, report: Report) -> None:
    """Run one of our modules that needs torch as `python -m`. Raises ConfigError with the last line that it wrote."""
    report(Progress("convert", f"{text} (once; about a minute per 100 million parameters)"))
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = "; install it with: pip install 'jedlik[torch]'" if "ModuleNotFoundError" in last else ""
        raise ConfigError(f"{text} failed (exit {done.returncode}): {last}{remedy}")


def _main(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize the blocks stay packed and can't be saved (transformers 5.23).
    where = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)
    _restore_pretokenizer(gguf, folder / "tokenizer.json")


def _restore_pretokenizer(gguf: Path, tokenizer: Path) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    if "tokenizer.ggml.pre" not in fields or fields["tokenizer.ggml.model"].contents() != "gpt2":
        return
    name = str(fields["tokenizer.ggml.pre"].contents())
    if not restore(name, tokenizer):
        raise ConfigError(unknown_rule(gguf, name))


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), Path(sys.argv[2]))
    except ConfigError as error:
        sys.exit(str(error))
    except Exception as error:  # reported in one line; the file is not ours
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")

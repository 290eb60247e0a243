"""Whether a model can be served at all: one check for `jedlik doctor` and `jedlik serve`.

`jedlik serve` has it in a process of its own (`python -m jedlik.serve.model_check FOLDER WEIGHTS DEFAULTS`), so that
its supervisor stays small: reading a large tokenizer takes hundreds of MB.
"""

import subprocess
import sys
import time
from pathlib import Path

from jedlik.core.config import ServeConfig
from jedlik.core.errors import Bug, ConfigError, RequestError
from jedlik.models import check
from jedlik.models.files import shelf
from jedlik.models.info import ModelInfo
from jedlik.serve.engines import kind_of

EXIT_WRONG = 2
QUESTION = ({"role": "user", "content": "Hello!"},)


def examine(path: Path, weights: bool = True, generation_config: str = "vendor") -> ModelInfo:
    """Return the numbers of a model directory. Raises ConfigError with the first reason why it can't be served.

    `weights`: an engine will load them.
    """
    try:
        return _examined(path, weights, generation_config)
    except ConfigError as error:
        if path.parent != shelf():
            raise
        raise ConfigError(f"{error} (jedlik made {path}: remove that folder, and it is made again)") from None


def _examined(path: Path, weights: bool, generation_config: str) -> ModelInfo:
    from jedlik.frontend.text.model import load_tokenizer

    model = check.check(path, weights=weights, vendor=generation_config == "vendor")
    tokenizer, _ = load_tokenizer(path)
    ids = tokenizer.get_vocab(with_added_tokens=False).values()
    if not ids:
        raise ConfigError(f"{path / 'tokenizer.json'} has no vocabulary: copy the file again")
    if max(ids) >= model.vocab_size:
        raise ConfigError(
            f"{path}: tokenizer.json has the token id {max(ids)}, and config.json says vocab_size {model.vocab_size}: "
            "they belong to different models"
        )
    _chats(path)
    return model


def examine_apart(path: Path, config: ServeConfig) -> None:
    """The same for a server, in a process of its own. Raises ConfigError."""
    weights = "weights" if kind_of(config).loads_weights else "no-weights"
    command = [sys.executable, "-m", "jedlik.serve.model_check", str(path), weights, config.generation_config]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode == EXIT_WRONG:
        raise ConfigError(done.stdout.strip())
    if done.returncode != 0:
        raise Bug(f"the check of {path} failed: {done.stderr.strip()[-300:]}")


def _chats(path: Path) -> None:
    """The chat template, if there is one, takes a plain question, or refuses it in words of its own."""
    from jinja2 import TemplateError

    from jedlik.frontend.text.model import REPAIR, load_template

    template = load_template(path, time.time)
    try:
        if template is not None:
            template.render(QUESTION, generation=True, extra={})
    except RequestError as error:
        if type(error.__cause__) is not TemplateError:
            raise ConfigError(
                f"{path}: the chat template fails on a plain question: {error.__cause__}; {REPAIR}"
            ) from None


if __name__ == "__main__":
    try:
        examine(Path(sys.argv[1]), sys.argv[2] == "weights", sys.argv[3])
    except ConfigError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(EXIT_WRONG)

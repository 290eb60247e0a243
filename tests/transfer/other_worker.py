"""Another worker, as a process: `python other_worker.py WORKER FOLDER PATH BLOCKS BLOCK_BYTES SEED`.

Says its address, then does what lines on stdin say, and says each `Moved` as `NUMBER BLOCKS CAUSE`.
"""

import sys
from pathlib import Path

from carrying import Carrying, move

from jedlik.core.ids import WorkerId
from jedlik.core.moves import CarrierReport, Location, Moved


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def tell(told: CarrierReport) -> None:
    if isinstance(told, Moved):
        say(told.number, told.blocks, told.cause or "ok")


def main(worker: str, folder: str, path: str, blocks: str, block_bytes: str, seed: str) -> None:
    one = Carrying(worker, Path(folder), int(blocks), int(block_bytes), [path], tell=tell)
    one.fill(int(seed))
    say(one.agent.address)
    for line in sys.stdin:
        match line.split():
            case ["met", name, address]:
                one.agent.met(WorkerId(name), address)
            case ["push", first, count, name, ticket]:
                everything = list(range(int(blocks)))
                for number in range(int(first), int(first) + int(count)):
                    there = Location("device", WorkerId(name))
                    one.agent.perform(
                        move(number, Location("device"), everything, there, everything, ticket=int(ticket))
                    )
    one.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The emulated provider: a loopback HTTP server that answers, limits, bills and misbehaves as real ones do.

It ships with the program (`rehearse`, `demo`) and is reached through the same client code as any other
provider. Every response carries `x-thirdshift-emulated: 1`, every model it reports begins with `emulated/`.

    with Emulator([EmulatedModel("small", Price(Decimal("0.1"), Decimal("0.4")), ability=0.5)]) as emulator:
        emulator.api_base   # http://127.0.0.1:…/v1
        emulator.books()    # what it billed, entry by entry

It runs in a process of its own, which ends when the one that started it does, however that ended.
"""

from thirdshift.engines.emulator.answer_key import KnownRow, last_user_text, write_known
from thirdshift.engines.emulator.models import BatchHabits, EmulatedModel, OutputTokens, Trouble, ability_for
from thirdshift.engines.emulator.process import Emulator, EmulatorError
from thirdshift.engines.emulator.stand_ins import recorded_for, recorded_models, stand_in, stood_in

__all__ = [
    "BatchHabits",
    "EmulatedModel",
    "Emulator",
    "EmulatorError",
    "KnownRow",
    "OutputTokens",
    "Trouble",
    "ability_for",
    "last_user_text",
    "recorded_for",
    "recorded_models",
    "stand_in",
    "stood_in",
    "write_known",
]

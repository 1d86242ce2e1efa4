"""What vendors publish of the cards that models run on, without sparsity."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

PART = re.compile(r" MIG (?:(?P<computing>\d)c\.)?(?P<slices>\d)g\.(?P<gigabytes>\d+)gb", re.IGNORECASE)
"""A part of a divided GPU: slices of its arithmetic, of which an instance may have some, and its memory."""
SLICES = 7
"""The arithmetic of an A100, and of all that came after it, is divided into so many."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card, or one die where a card has two that are numbered apart."""

    pattern: str
    """Found in the name that the vendor's tool prints, case ignored, with no letter after it: an L40 is no L4."""
    bf16_tflops: float
    fp8_tflops: float
    """Where the card has no such units: as for 16 bits."""
    fp4_tflops: float
    terabytes_per_second: float
    gigabytes: float
    source: str


def _nvidia(
    pattern: str, bf16: float, fp8: float, fp4: float, bandwidth: float, memory: float, sheet: str
) -> Card:
    return Card(pattern, bf16, fp8, fp4, bandwidth, memory, f"NVIDIA, {sheet}")


CARDS = (
    _nvidia("GB200", 2500, 5000, 10000, 8.0, 186, "GB200 NVL72 data sheet, 2024, halved for one GPU of two"),
    _nvidia("B200", 2250, 4500, 9000, 7.7, 180, "DGX B200 data sheet, 2024, an eighth"),
    _nvidia("B300", 2250, 4500, 13500, 8.0, 270, "DGX B300 data sheet, 2025, an eighth"),
    _nvidia("H200 NVL", 835, 1671, 1671, 4.8, 141, "H200 data sheet, 2024"),
    _nvidia("H200", 989, 1979, 1979, 4.8, 141, "H200 data sheet, 2024"),
    _nvidia("H20", 148, 296, 296, 4.0, 96, "H20, as Lenovo's product guide LP1944 gives it"),
    _nvidia("H100 PCIe", 756, 1513, 1513, 2.0, 80, "H100 data sheet, 2023"),
    _nvidia("H100 NVL", 835, 1671, 1671, 3.9, 94, "H100 data sheet, 2024"),
    _nvidia("H100", 989, 1979, 1979, 3.35, 80, "H100 data sheet, 2023"),
    _nvidia("A100-SXM4-40GB", 312, 312, 312, 1.555, 40, "A100 data sheet, 2020"),
    _nvidia("A100-PCIE-40GB", 312, 312, 312, 1.555, 40, "A100 data sheet, 2020"),
    _nvidia("A100", 312, 312, 312, 2.0, 80, "A100 data sheet, 2021"),
    _nvidia("L40S", 362, 733, 733, 0.864, 48, "L40S data sheet, 2023"),
    _nvidia("L4", 121, 242, 242, 0.3, 24, "L4 data sheet, 2023"),
    _nvidia("A10", 125, 125, 125, 0.6, 24, "A10 data sheet, 2021"),
    _nvidia(
        "RTX PRO 6000", 500, 1000, 2000, 1.6, 96, "RTX PRO 6000 Blackwell Server Edition data sheet, 2025"
    ),
    _nvidia("RTX 4090", 165, 330, 330, 1.008, 24, "Ada GPU architecture white paper, 2022"),
    Card(
        "950PR",
        378,
        757,
        1514,
        1.4,
        112,
        "Huawei's Ascend 950PR PCIe, as users' hardware tables give it, 2026",
    ),
    Card("910B", 313, 313, 313, 1.6, 64, "Ascend 910B3, as users report it; Huawei publishes no sheet"),
    Card(
        "Ascend 910",
        376,
        376,
        376,
        1.6,
        64,
        "one die of a 910C, as users report it; Huawei publishes no sheet",
    ),
)


def card_named(name: str) -> Card | None:
    """Return the first card whose pattern the name holds, or a part of it; None: nothing of such a card stands here."""
    card = next((card for card in CARDS if _names(card, name)), None)
    part = PART.search(name)
    return card if card is None or part is None else _part(card, part)


def with_memory(card: Card, memory_mib: int | None) -> Card:
    """Return a card with no more memory than its tool tells: some are sold with less, under one name."""
    told = card.gigabytes if memory_mib is None else memory_mib * (1 << 20) / 1e9
    return replace(card, gigabytes=min(card.gigabytes, told))


def _names(card: Card, name: str) -> bool:
    more = r"\d?" if card.pattern == "910B" else ""  # 910B1 to 910B4: binnings of one chip
    return re.search(re.escape(card.pattern) + more + r"(?![0-9A-Za-z])", name, re.IGNORECASE) is not None


def _part(card: Card, part: re.Match[str]) -> Card:
    slices, gigabytes = int(part["computing"] or part["slices"]), float(part["gigabytes"])
    arithmetic, memory = min(1.0, slices / SLICES), min(1.0, gigabytes / card.gigabytes)
    return replace(
        card,
        bf16_tflops=card.bf16_tflops * arithmetic,
        fp8_tflops=card.fp8_tflops * arithmetic,
        fp4_tflops=card.fp4_tflops * arithmetic,
        terabytes_per_second=card.terabytes_per_second * memory,
        gigabytes=min(gigabytes, card.gigabytes),
        source=f"{slices} of {SLICES} parts; {card.source}",
    )

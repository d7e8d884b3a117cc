"""Elements of SVG as text, and the ticks of an axis."""

from __future__ import annotations

import math

from markupsafe import Markup, escape


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Returns an element; text is escaped, attributes that are None are left out.

    Args:
        name: Name of the element.
        children: Elements, or texts.
        attributes: An underscore stands for a hyphen; one at the end is left out (`class_`).
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), short(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, inside)


def short(value: object) -> object:
    """Returns a number with one decimal, everything else as it is."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers between two values, at most so many and one more."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten between two positive values, and twice and five times them if these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high < 1000 * low else (1,)
    found = [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]
    return found[:: 1 + (len(found) - 1) // 8] if len(found) > 1 else linear_ticks(low, high)

"""Names for runs that were given none: adjective-noun-number, as MLflow users know them."""

from __future__ import annotations

import random

_ADJECTIVES = (
    "able amber ample brave brisk calm clear clever crisp daring deep eager early fair fast fine firm fond frank "
    "fresh gentle glad grand happy honest keen kind lively loyal lucky mellow merry mild neat noble polite proud "
    "quick quiet rapid rare ready rich robust secure sharp shiny silent smart smooth solid steady still stoic "
    "sturdy sunny swift tidy tough upbeat valid vivid warm wise witty "
).split()
_NOUNS = (
    "ant ape bass bat bear bee bird boar calf carp cat chick cod colt cow crab crane crow deer doe dog dove duck "
    "eel elk fawn finch fish flea fly fowl fox frog goat goose grub gull hare hawk hen hog horse hound jay kite "
    "koi lamb lark loon lynx mare midge mink mole moose moth mouse mule newt owl panda pig pug quail ram rat ray "
    "robin rook seal shad shark sheep shoat shrew skunk sloth slug smelt snail snake snipe sow squid stag steed "
    "stork swan tern toad trout vole wasp whale wolf worm wren yak zebra "
).split()
_random = random.Random()  # its own state: a training script's seed is neither used up nor repeated in every run


def random_run_name() -> str:
    """Return a name of at most 20 characters, such as ``calm-finch-381``."""
    return f"{_random.choice(_ADJECTIVES)}-{_random.choice(_NOUNS)}-{_random.randint(100, 999)}"


def reseed() -> None:
    """In a forked child: take other names than the parent will."""
    _random.seed()

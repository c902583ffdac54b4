"""Objects that nano cannot draw: names, and invented words."""

from __future__ import annotations

import random

from . import sampling

UNKNOWN = (
    "dragon", "castle", "mountain", "robot", "tree", "flower", "house", "fish", "snake", "unicorn", "rocket", "piano",
    "guitar", "shark", "ladder", "candle", "mushroom", "pencil", "crown", "bridge", "rabbit", "tiger", "lion", "frog",
    "penguin", "whale", "butterfly", "spider", "ghost", "snowman", "volcano", "river", "moon", "planet", "sword",
    "helicopter", "submarine", "tractor", "tent", "drum", "camel", "duck", "pig", "monkey", "hat", "shoe", "wizard",
    "pirate", "knight", "king", "queen", "princess", "baby", "teacher", "doctor", "face", "hand", "eye", "heart",
    "star", "sun", "cloud", "island", "lake", "forest", "garden", "street", "city", "village", "school", "tower",
    "pyramid", "church", "windmill", "lighthouse", "fence", "door", "window", "lamp", "mirror", "shelf", "carpet",
    "curtain", "pillow", "blanket", "camera", "radio", "printer", "screwdriver", "hammer", "saw", "nail", "key",
    "lock", "basket", "bucket", "broom", "soap", "towel", "comb", "ring", "necklace", "shirt", "dress", "coat",
    "glove", "sock", "scarf", "belt", "cherry", "grape", "lemon", "pear", "peach", "strawberry", "pineapple",
    "tomato", "potato", "onion", "egg", "cheese", "bread", "burger", "noodle", "soup", "cookie", "ice cream",
    "turtle", "crab", "octopus", "dolphin", "crocodile", "dinosaur", "goat", "chicken", "owl", "eagle", "parrot",
    "swan", "bee", "ant", "snail", "worm", "fox", "wolf", "deer", "kangaroo", "panda", "koala", "hedgehog",
    "squirrel", "rainbow", "waterfall", "fountain", "balloon", "doll", "puzzle", "dice", "trumpet", "violin", "flute",
    "microphone", "telescope", "satellite", "alien", "vampire", "mermaid", "fairy", "angel", "skeleton", "clown",
    "astronaut", "tank", "crane", "scooter", "glider", "yacht", "bell", "bone", "box", "brush", "bubble", "button",
    "cage", "calendar", "card", "chain", "coin", "corn", "crayon", "cube", "desk", "drill", "engine", "feather",
    "flag", "garage", "gift", "globe", "gun", "harp", "helmet", "igloo", "jacket", "jar", "jellyfish", "jug",
    "kettle", "leaf", "lipstick", "magnet", "map", "mask", "medal", "moose", "napkin", "needle", "nest", "net",
    "newspaper", "nose", "oak", "olive", "ostrich", "oyster", "paint", "palm", "pan", "parachute", "peanut", "pen",
    "pie", "pipe", "plum", "pot", "pumpkin", "raft", "razor", "road", "rock", "roof", "rope", "rose", "ruler", "sail",
    "salad", "seal", "shield", "skirt", "sponge", "spring", "stamp", "statue", "stone", "stove", "straw", "swing",
    "taxi", "tea pot", "temple", "tooth", "torch", "toy", "wall", "wallet", "watch", "well", "wheel", "whistle",
    "wig", "wing", "yo-yo",
    "anvil", "cactus", "chimney", "saxophone", "wheelbarrow", "hippo", "peacock", "sofa bed", "typewriter", "lantern",
)  # fmt: skip
"""Things nano does not draw; the last ten are kept for evaluation (`UNKNOWN[-10:]`)."""

ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t",
          "tr", "v", "w", "z")  # fmt: skip
VOWELS, CODAS = ("a", "e", "i", "o", "u", "oo", "ee"), ("", "", "", "b", "ck", "ld", "m", "n", "p", "r", "sh", "t", "x")


def invented_word(rng: random.Random) -> str:
    """A random word that means nothing, as unknown objects cannot all be listed."""
    syllable = ("".join(rng.choice(letters) for letters in (ONSETS, VOWELS, CODAS)) for _ in range(rng.randint(1, 3)))
    word = "".join(syllable)
    return word if len(word) > 3 and word not in sampling.NAMES else invented_word(rng)

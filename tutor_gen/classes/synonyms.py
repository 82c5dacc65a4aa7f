"""What other data sets call VOC's 20 classes."""

from __future__ import annotations

from collections.abc import Mapping

# Names of the class itself in the data sets' own lists (LVIS v0.5 and v1: Detectron2's category
# lists, first synonyms, with their definitions; Cityscapes: Detectron2's; Objects365 and Open
# Images: their class lists); kinds that VOC's annotation guidelines count in, where a data set
# keeps them apart: vans and large family cars, armchairs, deckchairs, ponies, donkeys, mules,
# mopeds, scooters, ships, babies, standalone screens; and people by age, sex or doing.
# Left out: kinds of which the guidelines say nothing (wine bottles, ducks, school buses), and what
# is another thing (flowerpots, vases, coffee tables, sofa beds, trucks, trams).
VOC_WORDS: Mapping[str, tuple[str, ...]] = {
    "aeroplane": ("airplane",),
    "bird": ("wild bird",),
    "boat": ("sailboat", "ship"),
    "bus": ("bus_(vehicle)",),
    "car": ("automobile", "car_(automobile)", "van", "SUV", "sports car"),
    "chair": ("armchair", "deck_chair"),
    "cow": ("cattle",),
    # Objects365 spells it with three n.
    "diningtable": ("dinning table", "kitchen & dining room table"),
    "horse": ("pony", "donkey", "mule"),
    "motorbike": ("motorcycle", "motor_scooter", "moped"),
    # LVIS v0.5 names its class of all people by its first synonym, "baby". Cityscapes' rider is the
    # person on a bicycle, without the bicycle.
    "person": ("baby", "man", "woman", "boy", "girl", "pedestrian", "rider"),
    "pottedplant": ("houseplant",),
    "sofa": ("couch",),
    "train": ("train_(railroad_vehicle)",),
    "tvmonitor": (
        *("tv", "television", "television_set", "computer monitor", "monitor/TV"),
        "monitor_(computer_equipment) computer_monitor",
    ),
}
"""Of each class the names that other data sets have for it, beside its own."""

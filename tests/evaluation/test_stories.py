import re

from PIL import Image

from limner.evaluation.judge import Detection, Verdict
from limner.evaluation.stories import story_task
from limner.inference.reply import Reply


def test_a_story_is_right_with_as_many_pictures_as_were_asked_for():
    """One that does not stop keeps its character in the first four, too."""
    task = story_task(1)
    color, name = re.search(r"about an? (\S+) (.+) in four", task.prompts[0]).groups()

    class Sees:
        def detect(self, images: list[Image.Image]) -> list[Verdict]:
            return [Verdict((Detection(name, color, 0.5, 0.5, 1.0),), "plain") for _ in images]

    told = [Reply([Image.new("RGB", (128, 128))] * count, "stop") for count in (3, 4, 5)]
    assert [task.grade(None, Sees(), [reply])[0] for reply in told] == [[False], [True], [False]]

"""Streams of an engine in a test: one to its end, or several in a random order."""


def finish(events):
    """The first reply of a stream."""
    while True:
        try:
            next(events)
        except StopIteration as stopped:
            return stopped.value[0]


def in_a_random_order(model, rng, asked, keep_cache=0.0):
    """Streams opened, pulled and closed in a random order: replies by their place, None where one was left, and which were to be
    left. ``keep_cache`` is the share of them that keep theirs."""
    waiting, streams, replies = list(range(len(asked))), {}, dict.fromkeys(range(len(asked)))
    left = {number for number in waiting if rng.random() < 0.2}
    while waiting or streams:
        if waiting and (not streams or rng.random() < 0.3):
            number = waiting.pop()
            streams[number] = model.stream(**asked[number], keep_cache=rng.random() < keep_cache)
        number = rng.choice(list(streams))
        if number in left and rng.random() < 0.2:
            streams.pop(number).close()
            continue
        try:
            next(streams[number])
        except StopIteration as stopped:
            (replies[number],) = stopped.value
            del streams[number]
    return replies, left

"""``/v1/responses``: words and pictures in order, as OpenAI types them.

A request (`schemas`) becomes messages (`input`); the events of the reply become those of a response (`streaming`), whose last one
holds the whole of it (`output`); it is kept for a while (`stored`), so that the conversation goes on from it.
"""

"""Codes of a visual tokenizer and their ids in the vocabulary, which follow each other from a first one."""

from __future__ import annotations

from torch import Tensor


def check_codes(codes: Tensor, num_codes: int) -> None:
    """Raises ValueError for codes (...) that are not whole numbers below ``num_codes``. The host waits for those on a GPU."""
    if codes.is_floating_point() or codes.is_complex():
        raise ValueError(f"codes are {codes.dtype}; they must be whole numbers (torch.long)")
    if codes.numel():
        low, high = (int(value) for value in codes.aminmax())
        if low < 0 or high >= num_codes:
            raise ValueError(
                f"code {low if low < 0 else high} is not in the codebook: its {num_codes} codes are 0 to {num_codes - 1}"
            )


def codes_to_ids(codes: Tensor, first_id: int, num_codes: int) -> Tensor:
    """Codes (...) to ids of the vocabulary (...), in which ``first_id`` is code 0's. Raises ValueError as `check_codes` does."""
    check_codes(codes, num_codes)
    return codes + first_id


def ids_to_codes(ids: Tensor, first_id: int, num_codes: int) -> Tensor:
    """The inverse of `codes_to_ids`. Raises ValueError for ids (...) of anything but codes."""
    try:
        check_codes(ids - first_id, num_codes)
    except ValueError as error:
        last_id = first_id + num_codes - 1
        raise ValueError(f"ids that are no visual tokens, whose ids are {first_id} to {last_id}: {error}") from None
    return ids - first_id

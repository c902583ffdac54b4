"""``limner merge``."""

from .options import LOADING, Loading, Out


def merge(*, loading: Loading = LOADING, out: Out) -> None:
    """Write adapters into a model's weights.

    Args:
        out: folder of the whole model
    """
    from ...inference.output import check_folder, check_space

    if not loading.adapter:
        raise ValueError("nothing to merge: name at least one --adapter DIR")
    if loading.dtype != "auto":
        raise ValueError("--dtype: adapters are merged in float32, and weights saved as precise as they are stored")
    check_folder(out)
    model = loading.load(dtype="float32")
    check_space(
        out, sum(p.numel() * model.stored_dtypes[name].itemsize for name, p in model.named_parameters()), "weights"
    )
    student = model.student_steps
    model.merge_adapters()
    if student and not model.student_steps:
        print(f"the {student}-step student is left out: it was distilled before (limner distill makes another)")
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(
            model.stored_dtypes.get(name, model.stored_dtype)
        )  # bit for bit, where nothing was merged
    model.save_pretrained(out)
    print(out)

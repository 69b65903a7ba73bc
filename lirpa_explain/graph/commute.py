"""Max pooling before ReLU where a model has it after: the same function, of which four times as few
neurons are open.

ReLU increases, so the largest of its values is its value at the largest argument; backwards, what
reaches a window whose largest argument is not positive is 0 wherever it is put. So with p =
max_pool(relu(z)),

    q = max_pool(z),  p = relu(q)    and    max_pool_gradient(g, relu(z)) relu'(z) =
    max_pool_gradient(g relu'(q), z),

number by number and in floating point too. Both poolings are told that maxima below 0 are of no
consequence.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from .module import Step

RELU = ("kink", {"slope": 0.0})
RELU_GRADIENT = ("kink_gradient", {"slope": 0.0})


def pooled_first(steps: Iterable[Step], result: str) -> list[Step]:
    """The steps of a module, with each ReLU whose values only max pooling reads put behind the
    pooling.

    Args:
        steps: what is computed, in order.
        result: the name of the module's output.

    Returns:
        As many steps, or fewer, that give the result the same value.

    Example:
        >>> pool = {"kernel": [2, 2]}
        >>> for step in pooled_first([Step("kink", ("z",), "a", {"slope": 0.0}),
        ...                           Step("max_pool", ("a",), "p", pool),
        ...                           Step("max_pool_gradient", ("g", "a"), "h", pool),
        ...                           Step("kink_gradient", ("h", "z"), "r", {"slope": 0.0})], "r"):
        ...     print(step)
        p_of_z = max_pool(z, kernel=[2, 2], rectified=True)
        p = kink(p_of_z, slope=0.0)
        h_to_p_of_z = kink_gradient(g, p_of_z, slope=0.0)
        r = max_pool_gradient(h_to_p_of_z, z, kernel=[2, 2], rectified=True)
    """
    steps = list(steps)
    readers: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        for name in step.inputs:
            readers[name].append(step)
    for relu in [step for step in steps
                 if (step.operator, step.settings) == RELU and step.output != result]:
        if _is_pooled(relu, readers, result):
            steps = _swapped(steps, relu, readers)
    return steps


def _is_pooled(relu: Step, readers: dict[str, list[Step]], result: str) -> bool:
    """Whether the values of a ReLU are read by max poolings alone, and what these send back by its
    gradient alone.
    """
    z, a = relu.inputs[0], relu.output
    backward = [step for step in readers[a]
                if step.operator == "max_pool_gradient" and step.inputs[0] != a]
    return all(step.operator == "max_pool" or step in backward for step in readers[a]) and all(
        step.output != result
        and all((reader.operator, reader.settings) == RELU_GRADIENT
                and reader.inputs == (step.output, z) for reader in readers[step.output])
        for step in backward)


def _swapped(steps: list[Step], relu: Step, readers: dict[str, list[Step]]) -> list[Step]:
    """The steps with one ReLU behind its poolings."""
    z, a = relu.inputs[0], relu.output
    backward = {step.output: step for step in readers[a] if step.operator == "max_pool_gradient"}
    largest: dict[str, str] = {}
    found = []

    def pooled(pool: Step) -> str:
        """The maximum over windows of z, which is computed the first time that it is asked for."""
        settings = pool.settings | {"rectified": True}
        if (key := str(settings)) not in largest:
            largest[key] = f"{pool.output}_of_{z}"
            found.append(Step("max_pool", (z,), largest[key], settings))
        return largest[key]

    for step in steps:
        if step.operator == "max_pool" and step.inputs == (a,):
            found.append(replace(relu, inputs=(pooled(step),), output=step.output))
        elif step.operator == "kink_gradient" and step.inputs[0] in backward:
            back = backward[step.inputs[0]]
            sent = f"{back.output}_to_{pooled(back)}"
            found += [replace(step, inputs=(back.inputs[0], pooled(back)), output=sent),
                      replace(back, inputs=(sent, z), output=step.output,
                              settings=back.settings | {"rectified": True})]
        elif step is not relu and step.output not in backward:
            found.append(step)
    return found

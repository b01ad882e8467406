"""Compiled spec --> what each of its attentions averages, the kernel chosen and why, and what it costs.

`explain` gathers the facts, `render` shows them to a reader, `to_data` to a program. No tensor is made.

Costs are formulas over the model's free lengths. A block knows lengths by names of its own, so each call's arguments
say what they are outside (`_Calls.lengths`), up to the root. A multiply-add is one term of a matrix product, of an
operation with weights (`OpResult.macs`) or of a `dot`; elementwise work is not counted.

`to_data` gives, with costs as {"formula": text, "number": integer or null} and sizes as texts:

    name, source, paper, about      of the spec; source is shown as in messages
    sizes                           name: value, as compiled
    choices                         name: what it may be, of the sizes that are one of several
    free, given                     names of the free lengths; those with a number
    inputs, outputs                 [{name, type, default}], [{name, type}]
    attentions                      one for each distinct attention, in the order of calls:
      block, constants, at          name, static arguments, place in the file
      paths, modules, calls         names in `state_dict()` (`*` is every number), how many modules, how often called
                                    (a text where a loop runs along an axis of free length)
      let                           texts of its statements
      query, key, value             {text, axes: [{name, size}]}, or null
      batch, positions, over        axes as above
      heads, key_heads              numbers, or null without heads
      features                      {key, value}: sizes of one head, key is null where the score uses none
      merge, dropout                text, number
      score, message                {text, formula (definitions expanded)}; score has `kind` and `found` too
      visible                       {locality, mask: texts or null, everything, causal, never,
                                     bands: [{axis, low, high, text}], rest: [texts]}
      normalize                     {name, options, formula}
      output                        {text, results: [types]}
      kernel                        {name, how}
      refused, able                 [{kernel, reason}], names of the others that could compute it
      estimates                     name: its estimated time in parts of the chosen one's; free lengths are as given, or
                                    as the planner assumes
      near                          {kernel, gain, change}: one that refused, how many times as fast it would be with
                                    what change of the spec; or null
      parameters                    of one module
      multiply_adds                 {linear, score, sum}: costs of one call
      peak                          {formula, number, bytes}: numbers held at once for the weights; bytes in float32
    layers                          where positions exchange information, alike ones together:
      kind, paths, calls, along     block, operation or `loop`; as above; names of the axes
      mixing, whole                 costs of one call: of the work that moves information (of an attention the visible
                                    pairs), of the layer with its projections
      steps                         how many operations can only be done one after the other
    paths                           one for each axis along which they do:
      axis, size, layers            its name and length; [{reads: text, count}] from the first to the last
      formula, number               how often a signal moves at most from any position to any other; or null
      exact                         false where the formula is a bound from above
      covers                        how far these layers reach; null: everywhere. The formula is of a stack that goes on
      towards                       "both", or the only way that information goes: "later", "earlier"
      unknown                       why there is no formula
    total                           {parameters, buffers, bytes, multiply_adds: {linear, score, sum, all}, shares}
      shares                        [{paths, parameters, multiply_adds}]: fractions of the total, or null
"""

from __future__ import annotations

from towerdsl.explain.complexity import Complexity, Growth, complexity, published_form
from towerdsl.explain.data import to_data
from towerdsl.explain.facts import Along, Attention, Explained, Found, Layer
from towerdsl.explain.gather import explain, explain_compiled
from towerdsl.explain.show import render, table, text

__all__ = [
    "Along",
    "Attention",
    "Complexity",
    "Explained",
    "Found",
    "Growth",
    "Layer",
    "complexity",
    "explain",
    "explain_compiled",
    "published_form",
    "render",
    "table",
    "text",
    "to_data",
]

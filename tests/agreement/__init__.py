"""Agreement: every kernel gives the reference's values and gradients, over the library and over random attentions."""

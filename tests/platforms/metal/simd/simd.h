// Part of metal_stdlib here.

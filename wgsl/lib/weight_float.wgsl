// One weight of a format of plain numbers.

fn weight(i: u32) -> f32 { return load(i); }

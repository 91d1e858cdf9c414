//! Text in, data out; lossless where it is written back; no input or output of its own and nothing of the rest of the crate.

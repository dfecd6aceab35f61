//! The engine process: one loaded model, one forward pass for everybody.

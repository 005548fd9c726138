//! A guest in a process: requests as Linux makes them, in RAM.

mod client;
mod escape;
mod files;
mod hostile;
mod model;
mod owners;
mod pressure;
mod sessions;

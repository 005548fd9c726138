//! The host's side of donjon: where domains' images come from, and which engine runs them.
#![forbid(unsafe_code)]

pub mod cache;
pub mod disk_boot;
pub mod doctor;
pub mod domains;
pub mod engines;
pub mod images;
pub mod initramfs;
pub mod perf_map;
pub mod progress;
pub mod record;
pub mod seed;
pub mod store;

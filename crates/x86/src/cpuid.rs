//! Named CPU models.
/// todo
pub struct CpuModel;

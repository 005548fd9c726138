//! Accesses to what is not RAM: the local APIC's page and the board.

use super::Cpu;

impl Cpu {
    /// A load from something that is not RAM.
    pub fn device_read(&mut self, physical: u64, size: u8) -> u64 {
        if self.is_apic_page(physical) {
            let value = self.board.apic.page_read(physical as u16 & 0xff0) as u64;
            return value >> (8 * (physical & 15).min(7));
        }
        self.board.io.mmio_read(physical, size)
    }

    /// A store to something that is not RAM.
    pub fn device_write(&mut self, physical: u64, size: u8, v: u64) {
        if self.is_apic_page(physical) {
            if physical & 15 == 0 && size >= 4 {
                self.board.apic.page_write(physical as u16 & 0xff0, v as u32);
            }
            return;
        }
        self.board.io.mmio_write(physical, size, v);
    }

    pub(super) fn device_read_bytes(&mut self, physical: u64, out: &mut [u8]) {
        for (i, chunk) in out.chunks_mut(8).enumerate() {
            let v = self.device_read(physical + i as u64 * 8, chunk.len() as u8);
            chunk.copy_from_slice(&v.to_le_bytes()[..chunk.len()]);
        }
    }

    pub(super) fn device_write_bytes(&mut self, physical: u64, data: &[u8]) {
        for (i, chunk) in data.chunks(8).enumerate() {
            let mut v = [0; 8];
            v[..chunk.len()].copy_from_slice(chunk);
            self.device_write(physical + i as u64 * 8, chunk.len() as u8, u64::from_le_bytes(v));
        }
    }
}

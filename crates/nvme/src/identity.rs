//! Who the controller and its namespace are.

use sha2::{Digest, Sha256};

/// PCI vendor ID. Nobody has it: there is none that could be ours, and under an ID that is somebody's (QEMU's
/// 1b36:0010 first of all) drivers work around the bugs of that device. Drivers bind to the class.
pub const VENDOR: u16 = 0xd0d0;
/// PCI device ID.
pub const DEVICE: u16 = 0x0010;
/// IEEE OUI, least significant byte first: 52-54-00, locally administered.
pub const OUI: [u8; 3] = [0x00, 0x54, 0x52];
/// Model number.
pub const MODEL: &str = "donjon NVMe";
/// Firmware revision.
pub const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// Identifiers of the namespace. All are drawn from the serial number, so that the same disk is the same namespace
/// in every domain and after every boot.
pub struct Identifiers {
    pub eui64: [u8; 8],
    pub nguid: [u8; 16],
    pub uuid: [u8; 16],
}

impl Identifiers {
    pub fn new(serial: &str) -> Self {
        let draw = |what: &str| -> [u8; 32] {
            Sha256::new()
                .chain_update(what)
                .chain_update(serial)
                .finalize()
                .into()
        };
        let (mut eui64, mut nguid, mut uuid) = ([0; 8], [0; 16], [0; 16]);
        eui64.copy_from_slice(&draw("donjon-nvme-eui64:")[..8]);
        nguid.copy_from_slice(&draw("donjon-nvme-nguid:")[..16]);
        uuid.copy_from_slice(&draw("donjon-nvme-uuid:")[..16]);
        // Big-endian, with the OUI at the front (EUI-64) or behind the extension (NGUID).
        let oui = [OUI[2], OUI[1], OUI[0]];
        eui64[..3].copy_from_slice(&oui);
        nguid[8..11].copy_from_slice(&oui);
        // RFC 9562: version 8, variant 1.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self { eui64, nguid, uuid }
    }

    /// The subsystem's NVMe qualified name (NVM Express Base 1.4 §7.9).
    pub fn subsystem_name(&self) -> String {
        let hex: String = self.uuid.iter().map(|b| format!("{b:02x}")).collect();
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        format!("nqn.2014-08.org.nvmexpress:uuid:{a}-{b}-{c}-{d}-{e}")
    }
}

/// An ASCII string in a field: left-justified, padded with spaces (NVM Express Base 1.4 §1.5).
pub fn put_text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = if (0x20..0x7f).contains(&from) { from } else { b'?' };
    }
}

//! The guest's agent as a program: built for every guest's x86-64 Linux, linked statically, and carried by whoever
//! links this.
#![forbid(unsafe_code)]

/// The program, an ELF file.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/donjon-agent"));
/// Its SHA-256, in hexadecimal digits.
pub const SHA256: &str = env!("DONJON_AGENT_SHA256");
/// Its version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::Command;

    /// Program header types (elf(5)).
    const PT_INTERP: u32 = 3;

    #[test]
    fn it_is_static_and_small() {
        assert!(AGENT.starts_with(b"\x7fELF"));
        // e_machine: EM_X86_64
        assert_eq!(AGENT[18..20], [62, 0]);
        assert!(AGENT.len() < 2 << 20, "{} bytes", AGENT.len());
        let half = |at: usize| u16::from_le_bytes(AGENT[at..at + 2].try_into().unwrap());
        let start = u64::from_le_bytes(AGENT[32..40].try_into().unwrap()) as usize;
        for n in 0..usize::from(half(56)) {
            let at = start + n * usize::from(half(54));
            let kind = u32::from_le_bytes(AGENT[at..at + 4].try_into().unwrap());
            assert_ne!(kind, PT_INTERP, "it needs a dynamic linker");
        }
    }

    #[test]
    fn it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        file.write_all(AGENT).unwrap();
        drop(file);
        let output = Command::new(&path).arg("version").output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("donjon-agent {VERSION}\n")
        );
        assert_eq!(SHA256.len(), 64);
    }
}

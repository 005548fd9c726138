//! What translated code needs of the host.

use super::arena::Arena;
use std::arch::is_x86_feature_detected as has;

/// Instructions of the guest's own, and of the translator's, that the host's CPU does not have.
pub(super) fn lacking() -> Vec<&'static str> {
    let needed = [
        ("SSE4.2", has!("sse4.2")),
        ("POPCNT", has!("popcnt")),
        ("CMPXCHG16B", has!("cmpxchg16b")),
        ("AVX2", has!("avx2")),
        ("FMA", has!("fma")),
        ("F16C", has!("f16c")),
        ("BMI1", has!("bmi1")),
        ("BMI2", has!("bmi2")),
        ("LZCNT", has!("lzcnt")),
        ("MOVBE", has!("movbe")),
        ("AES", has!("aes")),
        ("PCLMULQDQ", has!("pclmulqdq")),
        ("ADX", has!("adx")),
    ];
    needed.into_iter().filter(|n| !n.1).map(|n| n.0).collect()
}

/// What keeps code from being translated on this host: a clause without full stop.
pub(crate) fn obstacle() -> Option<String> {
    let lacking = lacking();
    if !lacking.is_empty() {
        return Some(format!("the host lacks {}", lacking.join(", ")));
    }
    let error = Arena::new(super::MAX_CODE).err()?;
    Some(format!("the host gives no memory for translated code ({error})"))
}

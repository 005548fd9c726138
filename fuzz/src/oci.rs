//! Manifests, indexes, configurations and names of images: read or refused.
#![no_main]

use donjon_oci::{Digest, Reference, check_document};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The texts must hold for whatever is in there.
    let _ = check_document(bytes).map_err(|e| e.to_string());
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        // In full it is the same.
        let again: Reference = reference.to_string().parse().expect("a reference");
        assert_eq!(again, reference);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
});

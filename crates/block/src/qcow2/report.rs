//! What a check counts and tells.

use std::collections::BTreeMap;
use std::ops::Range;

/// Findings that are told in words.
const TOLD: usize = 50;
/// Clusters whose counts lie together. Few, so that references that are spread out on purpose cost little more
/// memory than the file that holds them.
const CHUNK: u64 = 32;

/// What a check found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CheckReport {
    /// Contradictions, which may have cost data.
    pub errors: u64,
    /// Clusters that nothing refers to, which only cost room.
    pub leaks: u64,
    /// Contradictions that were repaired.
    pub errors_repaired: u64,
    /// Clusters that were given back.
    pub leaks_repaired: u64,
    /// Clusters of guest data in the image.
    pub allocated_clusters: u64,
    /// The findings, the first ones if there are many.
    pub findings: Vec<String>,
}

impl CheckReport {
    /// Whether there are contradictions that were not repaired.
    pub fn is_damaged(&self) -> bool {
        self.errors > self.errors_repaired
    }

    pub(super) fn error(&mut self, text: String) {
        self.errors += 1;
        self.tell(format!("error: {text}"));
    }

    pub(super) fn tell(&mut self, text: String) {
        if self.findings.len() < TOLD {
            self.findings.push(text);
        }
    }

    pub(super) fn first_error(&self) -> Option<String> {
        let first = self.findings.iter().find_map(|f| f.strip_prefix("error: "));
        self.is_damaged().then(|| first.unwrap_or("unknown").to_owned())
    }
}

/// How often each cluster is referred to. Memory goes with the references there are, not with the file's size.
#[derive(Default)]
pub(super) struct Counts(BTreeMap<u64, Box<[u32; CHUNK as usize]>>);

impl Counts {
    pub(super) fn add(&mut self, clusters: Range<u64>, times: u32) {
        for cluster in clusters {
            let chunk = self.0.entry(cluster / CHUNK).or_default();
            let count = &mut chunk[(cluster % CHUNK) as usize];
            *count = count.saturating_add(times);
        }
    }

    pub(super) fn get(&self, cluster: u64) -> u32 {
        self.0
            .get(&(cluster / CHUNK))
            .map_or(0, |c| c[(cluster % CHUNK) as usize])
    }

    /// Clusters in use, in order.
    pub(super) fn used(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let all = self.0.iter().flat_map(|(chunk, counts)| {
            counts
                .iter()
                .enumerate()
                .map(move |(i, n)| (chunk * CHUNK + i as u64, *n))
        });
        all.filter(|(_, n)| *n > 0)
    }
}

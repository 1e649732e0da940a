//! The committed corpus, one test a target. An input that shows a bug stays in the corpus for ever.

#![allow(clippy::disallowed_methods, reason = "the corpus lies in files")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

/// Bytes of the whole corpus at most: it is committed.
const MAX_CORPUS: usize = 1 << 20;

fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| (path.display().to_string(), std::fs::read(&path).unwrap())).collect()
}

fn replay(target: &str) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "no corpus for {target}");
    for (name, bytes) in inputs {
        if let Err(panic) = std::panic::catch_unwind(|| fuzz_targets::run(target, &bytes)) {
            eprintln!("{name} shows it: cargo +nightly fuzz run {target} {name}");
            std::panic::resume_unwind(panic);
        }
    }
}

macro_rules! replayed {
    ($($target:ident),+) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })+

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = fuzz_targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),+]);
        }
    };
}

replayed!(
    config,
    control,
    engine,
    icmp,
    netlink,
    options,
    packet,
    reassembly,
    request,
    response,
    segment_log
);

#[test]
fn the_corpus_is_small() {
    let all = fuzz_targets::TARGETS.iter().flat_map(|(name, _)| inputs(name));
    let bytes: usize = all.map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes < MAX_CORPUS, "{bytes} bytes: minimize it (`scripts/fuzz`)");
}

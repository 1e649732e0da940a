//! What connections and packets cost in memory, counted by the allocator: the same on every machine.

mod driver;

use allocation_counter::measure;
use driver::Driver;
use nfq_splice::{Stage, Verdict};

/// Bytes of the engine for each of `connections` that are spliced and idle.
fn bytes_each(path: &str, connections: u32) -> u64 {
    let mut engine = None;
    let counted = measure(|| {
        let mut driver = Driver::new(if path == "young" { "kernel" } else { path });
        if path == "young" {
            driver.engine.handle_fast_path();
        }
        (0..connections).for_each(|number| driver.connect(number));
        assert_eq!(driver.engine.status().total, u64::from(connections));
        engine = Some(driver);
    });
    let bytes = counted.bytes_current as u64 / u64::from(connections);
    println!("{path}, {connections} connections: {bytes} bytes each");
    drop(engine);
    bytes
}

/// The worst case of a table that doubles, just after it did, is among them.
#[test]
fn a_connection_in_the_kernel_takes_at_most_200_bytes() {
    for connections in [10_000, 57_345, 100_000] {
        assert!(bytes_each("kernel", connections) <= 200);
    }
}

#[test]
fn a_connection_translated_here_takes_at_most_512_bytes() {
    for connections in [10_000, 57_345, 100_000] {
        assert!(bytes_each("userspace", connections) <= 512);
    }
}

/// In its first quarter of a second, whatever path it takes then.
#[test]
fn a_connection_on_the_fast_path_alone_takes_at_most_512_bytes() {
    for connections in [1000, 10_000, 57_345] {
        assert!(bytes_each("young", connections) <= 512);
    }
}

#[test]
fn a_translated_packet_allocates_nothing() {
    let mut driver = Driver::new("userspace");
    (0..100).for_each(|number| driver.connect(number));
    let mut packets: Vec<Vec<u8>> = (0..100).map(|number| driver.response(number, 0, 1448)).collect();
    let counted = measure(|| {
        for packet in &mut packets {
            assert_eq!(driver.engine.handle_packet(driver.now, packet, Stage::Raw), Verdict::Rewritten);
            assert!(driver.engine.poll_action().is_none());
        }
    });
    assert_eq!(counted.count_total, 0);
}

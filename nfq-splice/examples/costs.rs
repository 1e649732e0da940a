//! The same work each time, to be counted in instructions:
//!
//! `cargo build --release --example costs; valgrind --tool=callgrind --toggle-collect='costs::measured' target/release/examples/costs WHAT N`
//!
//! WHAT: `connections` (N of them, from SYN to kernel splice), `packets` (N full segments translated on the userspace path) or
//! `bare` (N segments without data, as acknowledgements are). The parts that only prepare are not counted.

#[path = "../tests/costs/driver.rs"]
mod driver;

use driver::Driver;
use nfq_splice::Stage;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let count: u32 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    match what.as_str() {
        "connections" => {
            let mut driver = Driver::new("kernel");
            (0..count).for_each(|number| measured(|| driver.connect(number)));
        }
        "packets" => packets(count, 1448),
        "bare" => packets(count, 0),
        _ => eprintln!("usage: costs connections|packets|bare [COUNT]"),
    }
}

fn packets(count: u32, length: usize) {
    let mut driver = Driver::new("userspace");
    (0..1000).for_each(|number| driver.connect(number));
    let mut packets: Vec<Vec<u8>> = (0..count).map(|n| driver.response(n % 1000, 0, length)).collect();
    measured(|| {
        for packet in &mut packets {
            driver.engine.handle_packet(driver.now, packet, Stage::Raw);
        }
    });
}

#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
}

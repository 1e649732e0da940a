//! The addresses of a configuration: each usable, none twice, all of the service's family.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::Cluster;
use super::report::Report;

pub(super) fn check(report: &mut Report<'_>, cluster: &Cluster) {
    let service = cluster.service.address;
    usable(report, "service.address", service.ip(), Some(service.port()));
    backends(report, cluster);
    proxies(report, cluster);
    loggers(report, cluster);
}

fn backends(report: &mut Report<'_>, cluster: &Cluster) {
    let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for (name, backend) in &cluster.backends {
        let (key, address) = (format!("backend.{name}.address"), backend.address);
        usable(report, &key, address.ip(), Some(address.port()));
        like_service(report, cluster, &key, address.ip());
        if let Some(other) = seen.insert(address, name) {
            let what = format!("{address} is also the address of backend `{other}`");
            report.problem(&key, what, "give each backend its own address or port, or remove one");
        }
    }
}

/// The service's address is on no host, and what is spliced to it has its family.
fn like_service(report: &mut Report<'_>, cluster: &Cluster, key: &str, ip: IpAddr) {
    // IPv4 in IPv6 notation is complained of elsewhere.
    let (ip, service) = (ip.to_canonical(), cluster.service.address.ip().to_canonical());
    if !report.is_given("service.address") {
        return;
    }
    if ip == service {
        let what = format!("{ip} is the service's address, which no host may have");
        report.problem(key, what, "give it the host's own address");
    } else if ip.is_ipv4() != service.is_ipv4() {
        let family = if service.is_ipv4() { "IPv4" } else { "IPv6" };
        let what = format!("{ip} is not an {family} address as the service's is");
        report.problem(key, what, format!("write the host's {family} address"));
    }
}

fn proxies(report: &mut Report<'_>, cluster: &Cluster) {
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, proxy) in &cluster.proxies {
        let key = format!("proxy.{name}.address");
        usable(report, &key, proxy.address, None);
        not_service(report, cluster, &key, proxy.address);
        if let Some(other) = seen.insert(proxy.address, name) {
            let what = format!("{} is also the address of proxy `{other}`", proxy.address);
            report.problem(&key, what, "give each proxy its own address, or remove one");
        }
    }
}

fn loggers(report: &mut Report<'_>, cluster: &Cluster) {
    let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for (name, logger) in &cluster.loggers {
        let key = format!("logger.{name}.control");
        usable(report, &key, logger.control.ip(), Some(logger.control.port()));
        not_service(report, cluster, &key, logger.control.ip());
        if let Some(other) = seen.insert(logger.control, name) {
            let what = format!("{} is also the control address of logger `{other}`", logger.control);
            report.problem(&key, what, "give each logger its own address, or remove one");
        }
    }
}

fn not_service(report: &mut Report<'_>, cluster: &Cluster, key: &str, ip: IpAddr) {
    if ip == cluster.service.address.ip() && report.is_given("service.address") {
        let what = format!("{ip} is the service's address, which no host may have");
        report.problem(key, what, "give it the host's own address");
    }
}

fn usable(report: &mut Report<'_>, key: &str, ip: IpAddr, port: Option<u16>) {
    if let Some(why) = unusable(ip) {
        report.problem(key, format!("{ip} is {why}"), "write the address of one host");
    }
    if port == Some(0) {
        report.problem(key, "port 0 is not a port", "write the port that is listened on, 1 to 65535");
    }
}

fn unusable(ip: IpAddr) -> Option<&'static str> {
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address in IPv6 notation: write it as IPv4")
        }
        _ => None,
    }
}

//! `resplice certificates`.

use cluster::config::Cluster;

use crate::{CertificatesArgs, Outcome};

pub(crate) fn provide(args: &CertificatesArgs) -> Outcome {
    let cluster = Cluster::load(&args.config)?;
    let directory = args.directory.as_ref().unwrap_or(&cluster.cluster.certificates);
    let made = certificates::provide(directory, &cluster, args.days, args.renew)?;
    let mut lines = Vec::new();
    if made.authority {
        lines.push(format!(
            "made the authority of cluster {} in {}",
            cluster.cluster.name,
            directory.display()
        ));
    }
    lines.extend(made.nodes.iter().map(|node| {
        format!(
            "made {node}.crt and {node}.key, valid for {} days: copy them and ca.crt to {node}",
            args.days
        )
    }));
    if !made.kept.is_empty() {
        lines.push(format!("kept those of {}", made.kept.join(", ")));
    }
    if made.nodes.is_empty() && made.kept.is_empty() {
        lines.push("the configuration names no proxy and no logger".to_owned());
    }
    Ok((lines.join("\n"), true))
}

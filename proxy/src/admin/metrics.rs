//! `/metrics`: all figures in the OpenMetrics text format.

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::{ApiError, App};
use pias_datapath::{counters::Counters, engine::FastView, pipeline::Occupancy};
use pias_overlay::{ProxyView, StatusView, TargetView};

/// Labels of one name.
type Labels = Vec<(&'static str, String)>;

/// The figures as of now.
///
/// # Errors
/// [`ApiError`] where the overlay or the datapath does not answer.
pub async fn render(app: &App) -> Result<String, ApiError> {
    let (status, proxies, targets) =
        app.0.brain.ask(|node, now| (node.status(), node.proxies(now), node.targets(now))).await?;
    let ask = |datapath: &dyn super::Datapath| {
        Ok((datapath.counters()?, datapath.occupancy()?, datapath.fast()?))
    };
    let (counters, occupancy, fast) = app.datapath(ask).await?;
    let mut registry = Registry::with_prefix("pias");
    daemon(&mut registry, app);
    engine(&mut registry, &counters, occupancy);
    interfaces(&mut registry, &fast);
    overlay(&mut registry, &status);
    members(&mut registry, &proxies, &targets);
    app.0.counters.register(&mut registry);
    let mut out = String::new();
    // Writing to a string cannot fail; a metric that cannot be written would be left out.
    let _ = text::encode(&mut out, &registry);
    Ok(out)
}

fn daemon(registry: &mut Registry, app: &App) {
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of this build", build);
    let uptime = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
    uptime.set(app.0.started.elapsed().as_secs_f64());
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    let connections = app.0.overlay.open_connections();
    gauge(registry, "overlay_connections", "Open QUIC connections with other proxies", connections);
}

fn engine(registry: &mut Registry, counters: &Counters, tables: Occupancy) {
    let packets = Family::<Labels, Counter>::default();
    for (path, count) in counters.paths() {
        packets.get_or_create(&vec![("path", path.name().to_owned())]).inc_by(count);
    }
    registry.register(
        "packets",
        "Packets by the way they went; a super-packet counts once",
        packets,
    );
    let drops = Family::<Labels, Counter>::default();
    for (reason, count) in counters.all_drops() {
        drops.get_or_create(&vec![("reason", reason.name().to_owned())]).inc_by(count);
    }
    registry.register("drops", "Packets that went no further, by reason", drops);
    let entries = Family::<Labels, Gauge>::default();
    for (table, count) in [
        ("ingress_flows", tables.ingress_flows),
        ("nat_flows", tables.nat_flows),
        ("nat_embryonic", tables.nat_embryonic),
        ("standby_flows", tables.standby_flows),
        ("parked", tables.parked),
        ("fragments_held", tables.fragments_held),
    ] {
        entries.get_or_create(&vec![("table", table.to_owned())]).set(whole(count));
    }
    registry.register("table_entries", "Entries of the datapath's tables", entries);
}

fn interfaces(registry: &mut Registry, fast: &FastView) {
    let attached = Family::<Labels, Gauge>::default();
    for (name, mode) in &fast.interfaces {
        let mode = mode.as_ref().map_or("none", |mode| mode.name());
        let labels = vec![("interface", name.clone()), ("mode", mode.to_owned())];
        attached.get_or_create(&labels).set(i64::from(mode != "none"));
    }
    let help = "Whether XDP is attached to an interface that it should be, by mode";
    registry.register("xdp_attached", help, attached);
}

fn overlay(registry: &mut Registry, status: &StatusView) {
    gauge(registry, "ready", "Whether the routes should be installed", usize::from(status.ready));
    gauge(registry, "proxies_alive", "Live proxies, this one among them", status.proxies_alive);
    gauge(registry, "proxies_known", "Known proxies, alive or not", status.proxies_known);
    gauge(registry, "clusters", "Clusters with a live proxy", status.clusters);
    gauge(registry, "ingress_groups", "Groups with an ingress entry", status.ingress_groups);
    let groups = status.rendezvous_groups;
    gauge(
        registry,
        "rendezvous_groups",
        "Groups that this proxy keeps counts of, as a RAP",
        groups,
    );
    let c = &status.counters;
    for (name, help, count) in [
        ("missed", "Packets for groups without an ingress entry", c.missed),
        ("resolved", "Packets resolved as a RAP", c.resolved),
        ("lists_sent", "Lists sent to ingresses, as a RAP", c.lists_sent),
        ("lists_received", "Lists received from RAPs, as an ingress", c.lists_received),
        ("second_chances", "Packets that got a second chance, as a JAP", c.second_chances),
        ("refused_packets", "Packets that nobody could take", c.refused_packets),
        ("held_packets", "Packets held until a RAP knew its groups", c.held_packets),
        ("reports_sent", "Count reports sent, as a JAP", c.reports_sent),
        ("reports_received", "Count reports received, as a RAP", c.reports_received),
        ("joins", "Joins granted", c.joins),
        ("joins_refused", "Joins refused", c.joins_refused),
        ("leases_inherited", "Leases taken over from mates that died", c.leases_inherited),
        ("agents_reset", "Stateless resets sent to agents of mates that died", c.agents_reset),
        ("pings", "Pings sent to agents", c.pings),
        ("pings_skipped", "Pings not sent because their budget was used up", c.pings_skipped),
        ("probes", "Probes of targets", c.probes),
        ("overlay_unsendable", "Messages to proxies that are not known any more", c.unsendable),
        ("overlay_strangers", "Messages from proxies that are not known yet", c.strangers),
        ("overlay_table_full", "Entries not kept because a table was full", c.table_full),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(count);
        registry.register(name, help, counter);
    }
}

fn members(registry: &mut Registry, proxies: &[ProxyView], targets: &[TargetView]) {
    let rtt = Family::<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for (proxy, ms) in proxies.iter().filter_map(|proxy| Some((proxy, proxy.rtt_ms?))) {
        let labels = vec![("proxy", proxy.name.clone()), ("cluster", proxy.cluster.clone())];
        rtt.get_or_create(&labels).set(ms / 1000.0);
    }
    let help = "Round-trip time to other proxies by heartbeats";
    registry.register_with_unit("proxy_rtt", help, Unit::Seconds, rtt);
    let leases = Family::<Labels, Gauge>::default();
    for state in ["up", "down", "draining"] {
        let count = targets.iter().filter(|target| target.state == state).count();
        leases.get_or_create(&vec![("state", state.to_owned())]).set(whole(count));
    }
    registry.register("targets", "Targets registered here, each a lease, by state", leases);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: usize) {
    let gauge = Gauge::<i64>::default();
    gauge.set(whole(value));
    registry.register(name, help, gauge);
}

fn whole(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

//! Fragments follow their first.

use pias_protocol::time::Time;

use super::{Pipeline, Side, Verdict};
use crate::{
    classify::View,
    counters::Path,
    drop_reason::DropReason,
    fragment::{Follow, TrainKey},
    packet::Packet,
    rewrite,
    wire::ip::Ip,
};

impl Pipeline {
    /// A fragment without ports goes where its first went, or waits for it.
    pub(super) fn later_fragment(
        &mut self,
        train: TrainKey,
        packet: &mut Packet,
        view: &View,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        match self.fragments.follow(&train) {
            Follow::Undecided | Follow::Parked(_) => {
                match self.fragments.hold(train, packet, now) {
                    Ok(dropped) => {
                        self.counters.count_drops(DropReason::FragmentOrphan, dropped);
                        self.count(Path::FragmentHeld);
                        Verdict::Parked
                    }
                    Err(reason) => self.drop_for(reason),
                }
            }
            follow => {
                let verdict = self.follow(follow, train.tunnelled(), packet, &view.ip);
                self.fit(verdict, packet, now, side)
            }
        }
    }

    fn follow(&mut self, follow: Follow, tunnelled: bool, packet: &mut Packet, ip: &Ip) -> Verdict {
        let returning = self.takes_nat(ip.destination);
        // No error is sent about a later fragment: its first has caused one.
        if (tunnelled || returning) && !rewrite::decrement_ttl(packet.bytes_mut(), ip) {
            return self.drop_for(DropReason::Unanswerable);
        }
        match follow {
            Follow::Peer { tunnel, flow, header } => {
                self.count(match (tunnelled, header.option) {
                    _ if returning => Path::StandbyRelay,
                    (true, _) => Path::RendezvousRelay,
                    (false, Some(_)) => Path::IngressRendezvous,
                    (false, None) => Path::IngressDirect,
                });
                Verdict::Peer { tunnel, flow, header }
            }
            Follow::Rewrite { source, destination, id } => {
                rewrite::addresses(packet.bytes_mut(), ip, source, destination);
                rewrite::set_id(packet.bytes_mut(), ip, id);
                self.count(match (returning, self.prefixes.contains(source)) {
                    (true, _) => Path::JoinReturn,
                    (false, true) => Path::Echo,
                    (false, false) => Path::JoinDeliver,
                });
                Verdict::Tun
            }
            Follow::Drop(reason) => self.drop_for(reason),
            Follow::Undecided | Follow::Parked(_) => self.drop_for(DropReason::FragmentOrphan),
        }
    }

    /// The last step of every packet: what follows a first fragment learns where it goes, and the
    /// tunnel is not overfilled.
    pub(super) fn conclude(
        &mut self,
        train: Option<TrainKey>,
        verdict: Verdict,
        packet: &mut Packet,
        now: Time,
        side: &mut Side,
    ) -> Verdict {
        if let Some(train) = train {
            self.first_fragment(train, &verdict, packet, now, side);
        }
        self.fit(verdict, packet, now, side)
    }

    /// What follows a first fragment learns where it goes.
    pub(super) fn first_fragment(
        &mut self,
        train: TrainKey,
        verdict: &Verdict,
        packet: &Packet,
        now: Time,
        side: &mut Side,
    ) {
        let follow = match *verdict {
            Verdict::Tun => follow_rewritten(packet),
            Verdict::Peer { tunnel, flow, header } => Follow::Peer { tunnel, flow, header },
            Verdict::Parked => self.parking.followed_by(train),
            Verdict::Drop(reason) => Follow::Drop(reason),
            Verdict::Answered | Verdict::Registration { .. } => {
                Follow::Drop(DropReason::FragmentOrphan)
            }
        };
        let (free, dropped) = self.fragments.decide(train, follow, now);
        self.counters.count_drops(DropReason::FragmentOrphan, dropped);
        for mut fragment in free {
            let Ok(ip) = Ip::parse(fragment.bytes()) else { continue };
            let verdict = self.follow(follow, train.tunnelled(), &mut fragment, &ip);
            self.emit(verdict, fragment, now, side);
        }
    }

    /// Lets a packet leave beside the one at hand.
    pub(super) fn emit(
        &mut self,
        verdict: Verdict,
        mut packet: Packet,
        now: Time,
        side: &mut Side,
    ) {
        let verdict = self.fit(verdict, &mut packet, now, side);
        let leaves = matches!(verdict, Verdict::Tun | Verdict::Peer { .. });
        if leaves && !side.push_packet(verdict, packet) {
            self.counters.count_drop(DropReason::SideFull);
        }
    }
}

fn follow_rewritten(packet: &Packet) -> Follow {
    match Ip::parse(packet.bytes()) {
        Ok(Ip { source, destination, fragment: Some(fragment), .. }) => {
            Follow::Rewrite { source, destination, id: fragment.id }
        }
        _ => Follow::Drop(DropReason::Malformed),
    }
}

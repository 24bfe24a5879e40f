//! A UDP echo service that puts itself into an anycast group: what a peer-to-peer program does to be
//! found at one address from everywhere.
//!
//! ```console
//! $ cargo run -p pias-agent --example embed -- 203.0.113.10:7000/udp /etc/pias/ca.pem
//! ```

use std::error::Error;

use pias_agent::{Agent, EventKind};
use tokio::net::UdpSocket;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(group), Some(ca)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed AA:PORT/udp CA-FILE".into());
    };
    let group: pias_agent::GroupKey = group.parse()?;

    // The address that the route to the group uses: where the proxies can reach this host.
    let address = pias_agent::route_source(group.address)?;
    let socket = UdpSocket::bind((address, 0)).await?;

    let target = pias_agent::Target::from(socket.local_addr()?);
    let mut agent = Agent::builder()
        .certificate_authority(std::fs::read(ca)?)
        .group(pias_agent::Group::from(group).to(target))
        .start()?;

    let mut datagram = vec![0; 65_536];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut datagram) => {
                let (length, client) = received?;
                socket.send_to(&datagram[..length], client).await?;
            }
            event = agent.next() => match event {
                Some(event) => match event.kind {
                    EventKind::Joined { proxy, .. } => println!("a member through {proxy}"),
                    EventKind::Refused { reason, .. } => println!("refused: {reason}"),
                    other => println!("{other:?}"),
                },
                None => return Err("the group is not to be had".into()),
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }

    // No new client is sent here once this returns.
    agent.leave().await;
    Ok(())
}

//! Table 1, the network splits and heals: each side serves what it can reach,
//! and all converge within 30 s after healing, unaided.

use std::time::Duration;

use pias_lab::{Transport, clock, wait_until};

use crate::machine::scenario;
use crate::stage::{Stage, all_up, anycast, join, leave, since, up_at};
use crate::watch::{Watch, serve, watch_while};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn each_side_of_a_split_serves_what_it_reaches_and_both_converge_after_healing() {
    scenario(|| {
        let Some(lab) = Stage::shared() else { return };
        let everywhere = ["fra-t1", "nyc-t1"].map(|target| serve(&lab, target, 190));
        let [far, _] = anycast(191);
        let there = join(&lab, "nyc-t2", &far, "53/udp");
        let watches = ["c-fra", "c-nyc"].map(|client| Watch::start(&lab, client, 190, 20));

        let mut cut = None;
        let event = clock();
        let seen = watch_while(watches, 15 * SECOND, || {
            cut = Some(lab.split_off("t-fra").expect("links over oceans"));
            // Longer than the transit routers' BGP takes to notice.
            wait_until(15 * SECOND, "both sides to know each other gone", || {
                up_at(&lab, "fra1").len() == 2 && up_at(&lab, "nyc1").len() == 4
            })
            .expect("both sides know");
            println!("split: both sides know after {:.1?}", since(event));
        });
        for seen in &seen {
            seen.print("split", "Frankfurt alone");
        }
        // What is on the other side only is refused, not silent.
        let words = ["pias-lab", "tool", "ask", &crate::stage::service(&far, 53), "--count", "1"];
        let report = lab.host("c-fra").ok(&words).expect("a question");
        assert!(report.contains("\"refused\""), "{report}");

        let healed = clock();
        cut.expect("it was cut").restore().expect("links");
        let routed = || lab.host("c-fra").ping("10.2.11.2").expect("ping").is_some();
        wait_until(30 * SECOND, "BGP to be back", routed).expect("BGP is back");
        let bgp = since(healed);
        all_up(&lab, 30 * SECOND);
        let converged = since(healed);
        wait_until(30 * SECOND, "the far group to be served again", || {
            let answer = lab.host("c-fra").ask_dns(&far, Transport::Udp).expect("dig");
            answer.is_some_and(|answer| answer.target == "nyc-t2")
        })
        .expect("the far group is served");
        println!(
            "healed: BGP back after {bgp:.1?}, all proxies see all after {converged:.1?}, the other \
         side's group served after {:.1?}",
            since(healed)
        );
        leave([there]);
        everywhere.into_iter().for_each(leave);
        for seen in &seen {
            seen.survived(SECOND);
            seen.served_after(Duration::ZERO);
        }
        assert!(converged <= 30 * SECOND, "{converged:?}");
    });
}

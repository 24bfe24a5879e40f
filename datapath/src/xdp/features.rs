//! What drivers can do with frames of XDP, as the kernel's netlink family `netdev` tells (Linux 6.3).

use neli::{
    consts::{nl::NlmF, socket::NlFamily},
    err::RouterError,
    genl::{AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder},
    nl::NlPayload,
    router::synchronous::NlRouter,
    types::{Buffer, GenlBuffer},
    utils::Groups,
};

type Message = Genlmsghdr<u8, u16>;

/// `NETDEV_CMD_DEV_GET`, and the attributes that are used of it.
const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;

/// `enum netdev_xdp_act`: a program in the driver, and frames that others redirect there.
const BASIC: u64 = 1 << 0;
const NDO_XMIT: u64 = 1 << 2;

/// What can be sent by an interface from XDP in its driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sends {
    /// Frames that came in there, by `XDP_TX`. Not by a veth, which does so without waking the other end
    /// where that has no program: there they would wait.
    pub bounces: bool,
    /// Any frames, by `XDP_REDIRECT`.
    pub takes: bool,
}

/// Asks the kernel; nothing where it does not know such questions.
pub struct Features {
    router: Option<(NlRouter, u16)>,
}

impl Features {
    /// A socket to ask with.
    #[must_use]
    pub fn open() -> Self {
        let connected = NlRouter::connect(NlFamily::Generic, None, Groups::empty());
        let router = connected.ok().map(|(router, _)| router);
        let family = |router: &NlRouter| router.resolve_genl_family("netdev").ok();
        let router = router.and_then(|router| family(&router).map(|family| (router, family)));
        Self { router }
    }

    /// What an interface can do now. Some gain and lose abilities while they are up: a veth with what is
    /// attached to its other end, others with what is attached to themselves.
    #[must_use]
    pub fn of(&self, index: u32, is_veth: bool) -> Sends {
        let Some((router, family)) = &self.router else {
            return Sends { bounces: !is_veth, takes: false };
        };
        let features = ask(router, *family, index).ok().flatten().unwrap_or(0);
        Sends { bounces: features & BASIC != 0 && !is_veth, takes: features & NDO_XMIT != 0 }
    }
}

/// What went wrong is told by no one: who asks goes without.
#[derive(Debug)]
struct Unanswered;

impl<T, P> From<RouterError<T, P>> for Unanswered {
    fn from(_: RouterError<T, P>) -> Self {
        Self
    }
}

fn ask(router: &NlRouter, family: u16, index: u32) -> Result<Option<u64>, Unanswered> {
    let request = request(index).ok_or(Unanswered)?;
    let answers =
        router.send::<_, _, u16, Message>(family, NlmF::empty(), NlPayload::Payload(request))?;
    for answer in answers {
        if let Some(message) = answer?.get_payload() {
            return Ok(message.attrs().get_attr_handle().get_attr_payload_as(XDP_FEATURES).ok());
        }
    }
    Ok(None)
}

/// `None` never: each part that the builders ask for is there.
fn request(index: u32) -> Option<Message> {
    let kind = AttrTypeBuilder::default().nla_type(IFINDEX).build().ok()?;
    let which: Nlattr<u16, Buffer> =
        NlattrBuilder::default().nla_type(kind).nla_payload(index).build().ok()?;
    let attrs = GenlBuffer::from_iter([which]);
    GenlmsghdrBuilder::default().cmd(DEV_GET).version(1).attrs(attrs).build().ok()
}

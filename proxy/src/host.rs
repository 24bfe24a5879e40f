//! What the host's kernel must be set to so that packets pass through the TUN device.

use std::{fs, io, path::Path};

/// Sets what forwarding needs where it is not set already, and says so in the log. What cannot be
/// set is told with the command that would do it.
pub fn prepare(device: &str) {
    for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        ensure(setting, "1");
    }
    // Packets of clients and targets come out of the device with sources whose way back is another.
    ensure(&format!("net/ipv4/conf/{device}/rp_filter"), "0");
    if read("net/ipv4/conf/all/rp_filter").is_ok_and(|value| value == "1") {
        tracing::warn!(
            "net.ipv4.conf.all.rp_filter is 1 (strict): packets that come back on another way than \
             they went are lost; set it to 0 or 2, `sysctl -w net.ipv4.conf.all.rp_filter=2`"
        );
    }
}

fn ensure(setting: &str, wanted: &str) {
    let name = setting.replace('/', ".");
    match read(setting) {
        Ok(value) if value == wanted => {}
        Ok(value) => match fs::write(path(setting), wanted) {
            Ok(()) => tracing::info!("set {name} from {value} to {wanted}, which forwarding needs"),
            Err(error) => tracing::warn!(
                "{name} is {value} and cannot be set ({error}): packets will not pass; \
                 run `sysctl -w {name}={wanted}`"
            ),
        },
        // A kernel without IPv6 has none of its settings.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("cannot read {name}: {error}"),
    }
}

fn read(setting: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(setting))?.trim().to_owned())
}

fn path(setting: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(setting)
}

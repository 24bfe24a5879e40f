//! Check by connecting: the service accepts connections. Nothing is sent.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::CheckError;

/// Connects to `target`, and closes again.
pub(crate) async fn probe(target: SocketAddr) -> Result<(), CheckError> {
    TcpStream::connect(target).await?;
    Ok(())
}

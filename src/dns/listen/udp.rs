//! A worker: one thread on one socket. Hits are answered here, in batches; misses go to the runtime.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::dns::flights::Route;
use crate::dns::resolve::{Handled, Resolver, Turn};
use crate::sys::udp::{Received, Sending};

/// Waited after an unexpected error of the socket, so that a lasting one doesn't spin.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// Serves until `stop`.
pub fn serve(socket: &Arc<UdpSocket>, resolver: &Arc<Resolver>, stop: &AtomicBool) {
    let mut received = Received::default();
    let mut sending = Sending::default();
    while !stop.load(Ordering::Relaxed) {
        let count = match received.receive(socket.as_fd()) {
            Ok(count) => count,
            Err(error) => {
                let waited = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted];
                if !waited.contains(&error.kind()) {
                    tracing::warn!(%error, "receiving questions");
                    std::thread::sleep(AFTER_ERROR);
                }
                continue;
            }
        };
        let rules = resolver.rules.load();
        let mut turn = Turn::new(&rules, resolver.clock.now());
        for datagram in received.iter() {
            // Nobody can be answered at port 0.
            if datagram.peer.port() == 0 {
                resolver.metrics.drop_packet("port_zero");
                continue;
            }
            let client = datagram.peer.ip().to_canonical();
            let mut handled = Handled::Drop;
            sending.push(datagram.peer, datagram.local, |out| {
                handled = resolver.handle(datagram.payload, client, false, &mut turn, out);
            });
            if let Handled::Miss(question) = handled {
                let route = Route::Udp { socket: socket.clone(), peer: datagram.peer, local: datagram.local };
                resolver.submit(&question, client, route);
            }
        }
        let (_, skipped) = sending.flush(socket.as_fd());
        for _ in 0..skipped {
            resolver.metrics.drop_packet("send_failed");
        }
        resolver.metrics.udp_questions.inc_by(u64::try_from(count).unwrap_or(0));
        if turn.hits > 0 {
            resolver.metrics.cache_hits.inc_by(turn.hits);
            resolver.metrics.released.inc_by(turn.released);
        }
    }
}

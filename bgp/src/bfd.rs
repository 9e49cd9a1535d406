//! Bidirectional Forwarding Detection: notices within a fraction of a second that the path to a router is dead, where BGP's hold timer takes
//! minutes (RFC 5880; RFC 5881 for one hop, RFC 5883 for several, RFC 5882 for what BGP makes of it).
//!
//! * [`session`]: the pure session machine; [`packet`]: control packets to octets and back; [`state`]: states, diagnostics, causes.
//!
//! Asynchronous mode only: no echo, no demand mode of our own, no authentication. Every session is of the active role.
//!
//! What BGP makes of it (RFC 5882): an established BGP session ends when BFD goes down after it was up, unless the neighbour took its BFD session
//! down on purpose (section 3.2). BGP may come up before BFD does, and without it: a router where nobody configured BFD still gets its routes.
//!
//! The C bit is never set: this BFD lives in the same process as BGP and dies with it, so a router that loses BFD may not conclude that
//! forwarding is broken. With graceful restart it keeps the routes of a guard that crashed for the restart time, as section 4.3 wants it. The
//! neighbour's C bit changes nothing for us: we hold no routes of its, and a route can't be confirmed through a path that is dead.

pub mod packet;
pub mod session;
pub mod state;

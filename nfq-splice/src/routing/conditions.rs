//! Whether a route matches a request: all of its conditions hold.

use cluster::config::{Route, host_fits, path_fits};
use http1::RequestHead;

pub(super) fn fit(route: &Route, request: &RequestHead) -> bool {
    let host = |wanted: &str| request.host.as_deref().is_some_and(|host| host_fits(wanted, host));
    route.host.as_deref().is_none_or(host)
        && route.path_prefix.as_deref().is_none_or(|prefix| path_fits(prefix, request.path()))
        && route.method.as_ref().is_none_or(|methods| methods.iter().any(|method| method == request.method()))
        && route.headers.iter().all(|header| header.fits(request))
        && route.cookies.iter().all(|cookie| cookie.fits(request))
}

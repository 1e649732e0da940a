//! Whether a route matches a request: all of its conditions hold.

use cluster::config::{CookieMatch, HeaderMatch, Route, host_fits, path_fits};
use http1::RequestHead;

pub(super) fn fit(route: &Route, request: &RequestHead) -> bool {
    let host = |wanted: &str| request.host.as_deref().is_some_and(|host| host_fits(wanted, host));
    route.host.as_deref().is_none_or(host)
        && route.path_prefix.as_deref().is_none_or(|prefix| path_fits(prefix, request.path()))
        && route.method.as_ref().is_none_or(|methods| methods.iter().any(|method| method == request.method()))
        && route.headers.iter().all(|header| header_fits(header, request))
        && route.cookies.iter().all(|cookie| cookie_fits(cookie, request))
}

fn header_fits(wanted: &HeaderMatch, request: &RequestHead) -> bool {
    request.fields.all(&wanted.name).any(|value| {
        wanted.value.as_deref().is_none_or(|whole| value == whole.as_bytes())
            && wanted.prefix.as_deref().is_none_or(|prefix| value.starts_with(prefix.as_bytes()))
    })
}

fn cookie_fits(wanted: &CookieMatch, request: &RequestHead) -> bool {
    let fits = |value: &[u8]| wanted.value.as_deref().is_none_or(|whole| value == whole.as_bytes());
    request.cookies(&wanted.name).any(fits)
}

//! `GET /v1/cluster`: who is there, and who owns what.

use std::sync::Arc;

use hyper::Response;
use onhand_streams::Following;

use super::Call;
use crate::app::App;
use crate::http::respond::{self, Body};
use crate::stale;
use crate::wire::problem::Problem;
use crate::wire::write::{Object, list as write_list, text};

pub(super) fn get(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    let membership = app.engine.cluster.membership();
    let mut out = Vec::with_capacity(1 << 10);
    let mut object = Object::open(&mut out);
    object.text("instance", &app.engine.instance);
    let members = object.key("members");
    write_list(
        members,
        membership.members.iter().enumerate(),
        |out, (at, member)| {
            let mut object = Object::open(out);
            object
                .text("name", &member.name)
                .text("incarnation", &member.incarnation)
                .text("address", &member.address)
                .text(
                    "state",
                    if member.takes_part {
                        "active"
                    } else {
                        "joining"
                    },
                )
                .flag("me", Some(at) == membership.me);
            object.close();
        },
    );
    let name = |at: Option<usize>| {
        let member = membership.members.get(at?)?;
        Some(&*member.name)
    };
    let standbys = membership.standbys(app.engine.standby_count);
    let partitions = object.key("partitions");
    write_list(
        partitions,
        (0..).zip(&membership.places),
        |out, (partition, place)| {
            let mut object = Object::open(out);
            object.uint("partition", u64::from(partition));
            for (key, at) in [("assigned", place.assigned), ("holder", place.holder)] {
                match name(at) {
                    Some(name) => object.text(key, name),
                    None => object.null(key),
                };
            }
            object.flag("open_here", app.engine.is_open(partition));
            match app.placement.left(partition) {
                0 => object.null("restoring"),
                left => object.uint("restoring", left),
            };
            let follow = standbys.get(usize::from(partition)).into_iter().flatten();
            let follow = follow.filter_map(|at| name(Some(*at)));
            write_list(object.key("standbys"), follow, text);
            match app.engine.standbys.of(partition) {
                None => object.null("standby_here"),
                Some(following) => {
                    write_following(&mut object, &following);
                    &mut object
                }
            };
            object.close();
        },
    );
    object.close();
    Ok(respond::json(200, out))
}

/// How the standby of a partition stands that is here.
fn write_following(object: &mut Object<'_>, following: &Following) {
    let mut here = Object::open(object.key("standby_here"));
    let state = if following.is_warm {
        "following"
    } else {
        "restoring"
    };
    here.text("state", state).uint("lag", following.lag);
    match following.stale {
        Some(stale) => here.uint("stale_ms", stale::ms(stale)),
        None => here.null("stale_ms"),
    };
    here.close();
}

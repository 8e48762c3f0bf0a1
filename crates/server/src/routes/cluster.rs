//! `GET /v1/cluster`: who is there, and who owns what.

use std::sync::Arc;

use hyper::Response;

use super::Call;
use crate::app::App;
use crate::http::respond::{self, Body};
use crate::wire::problem::Problem;
use crate::wire::write::{Object, list as write_list};

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
                .flag("me", Some(at) == membership.me);
            object.close();
        },
    );
    let name = |at: Option<usize>| {
        let member = membership.members.get(at?)?;
        Some(&*member.name)
    };
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
            object.close();
        },
    );
    object.close();
    Ok(respond::json(200, out))
}

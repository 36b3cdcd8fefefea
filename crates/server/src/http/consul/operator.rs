//! What is the same for every cluster of one, and what there is none of here.

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::body::Answer;
use super::super::request::Failure;
use super::{Ask, CONSUL_VERSION, no_endpoint, render};

/// What Consul says where access control is off.
pub(super) fn acl_disabled() -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "ACL support disabled: users and permissions are those of the broker")
}

/// 501 for what belongs to the service mesh.
pub(super) fn no_mesh() -> Failure {
    not_here("there is no service mesh")
}

/// 501 for what Consul has and we do not.
pub(super) fn not_here(why: &str) -> Failure {
    Failure::new(StatusCode::NOT_IMPLEMENTED, format!("Not supported: {why}"))
}

/// The place of a node in a network of one.
pub(super) fn coordinate() -> Value {
    json!({ "Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.000_01 })
}

impl Ask<'_> {
    /// `/v1/status`, `/v1/operator`, `/v1/coordinate` and everything that is refused.
    pub(super) async fn operator(&self, path: &[&str]) -> Result<Answer, Failure> {
        match path {
            ["acl", ..] => return Err(acl_disabled()),
            ["connect" | "config" | "discovery-chain" | "peering" | "peerings" | "exported-services", ..]
            | ["imported-services", ..] => return Err(no_mesh()),
            ["internal", ..] => return Err(not_here("this is Consul's own console's")),
            ["snapshot"] => {
                return Err(not_here(
                    "a snapshot is Consul's own state; copy the data directory of a stopped server to keep ours",
                ));
            }
            [
                "namespace" | "namespaces" | "partition" | "partitions" | "federation-state" | "federation-states",
                ..,
            ] => {
                return Err(not_here("one namespace, one partition: use vhosts"));
            }
            _ => {}
        }
        self.must_be(Method::GET, "GET")?;
        let own = self.services.own_node();
        let (name, id) = (&*own.spec.name, &*own.spec.id);
        let value = match path {
            ["status", "leader"] => json!(self.leader()),
            ["status", "peers"] => json!([self.leader()]),
            ["coordinate", "datacenters"] => {
                let here = json!([{ "Node": name, "Segment": "", "Coord": coordinate() }]);
                json!([{ "Datacenter": self.cx.node.config.consul.datacenter, "AreaID": "wan", "Coordinates": here }])
            }
            ["coordinate", "nodes"] => return Ok(self.own_coordinate(name).await),
            ["coordinate", "node", node] if node.eq_ignore_ascii_case(name) => {
                return Ok(self.own_coordinate(name).await);
            }
            ["operator", "raft", "configuration"] => json!({
                "Servers": [{
                    "ID": id, "Node": name, "Address": self.leader(), "Leader": true, "ProtocolVersion": "3", "Voter": true,
                    "LastIndex": self.services.checks_index(),
                }],
                "Index": 1,
            }),
            ["operator", "autopilot", "health"] => self.autopilot(name, id),
            _ => return Err(no_endpoint()),
        };
        Ok(self.with_index(self.told(render::json(&value)), self.services.checks_index()))
    }

    /// The only node is where it is: who waits for a change waits out the time.
    async fn own_coordinate(&self, name: &str) -> Answer {
        let (index, ()) = self.wait(|| (1, ()), |_| std::future::pending::<()>()).await;
        let body = render::json(&json!([{ "Node": name, "Segment": "", "Coord": coordinate() }]));
        self.with_index(self.told(body), index)
    }

    fn autopilot(&self, name: &str, id: &str) -> Value {
        json!({
            "Healthy": true, "FailureTolerance": 0,
            "Servers": [{
                "ID": id, "Name": name, "Address": self.leader(), "SerfStatus": "alive", "Version": CONSUL_VERSION,
                "Leader": true, "LastContact": "0s", "LastTerm": 1, "LastIndex": self.services.checks_index(),
                "Healthy": true, "Voter": true, "StableSince": "1970-01-01T00:00:00Z",
            }],
        })
    }
}

use super::*;
use proptest::prelude::*;

fn spec(text: &str) -> NetSpec {
    text.parse().unwrap()
}

#[test]
fn interfaces_are_written_as_people_do() {
    let text = "tap=tap0,mac=02:00:00:00:00:01,queues=2,mtu=9000,bps=100M,iops=10k";
    let all = spec(text);
    assert_eq!(all.connection, Connection::Tap("tap0".parse().unwrap()));
    assert_eq!((all.queues.get(), all.mtu), (2, Some(9000)));
    assert_eq!(all.limit, "bps=100M,iops=10k".parse().unwrap());
    assert_eq!(all.to_string(), text);
    let json = r#"{"connection":{"tap":"tap0"},"mac":"02:00:00:00:00:01","queues":2,"mtu":9000,"limit":{"bandwidth":{"rate":104857600,"burst":10485760},"operations":{"rate":10000,"burst":1000}}}"#;
    assert_eq!(serde_json::to_string(&all).unwrap(), json);
    assert_eq!(serde_json::from_str::<NetSpec>(json).unwrap(), all);
    assert_eq!(
        spec("switch=lan"),
        NetSpec::new(Connection::Switch("lan".parse().unwrap()))
    );
    assert_eq!(
        serde_json::to_string(&spec("none")).unwrap(),
        r#"{"connection":"none"}"#
    );
    let text = "user,net=192.168.0.0/16,net6=fd12::/64,host-loopback,forward=8080:80,forward=[::1]:53:53/udp,mtu=9000";
    assert_eq!(spec(text).to_string(), text);
    assert_eq!(
        serde_json::to_string(&spec("user,forward=8080:80")).unwrap(),
        r#"{"connection":{"user":{"forward":["8080:80"]}}}"#
    );
    assert_eq!(
        serde_json::from_str::<NetSpec>(r#"{"connection":{"user":{}}}"#).unwrap(),
        spec("user")
    );
    // Commas are twice in a list.
    assert_eq!(
        spec("tap=a,,b").connection,
        Connection::Tap("a,b".parse().unwrap())
    );
}

#[test]
fn what_is_wrong_is_said() {
    for (text, what) in [
        ("", "say one thing"),
        ("mac=02:00:00:00:00:01", "say one thing"),
        ("tap=a,switch=b", "say one thing"),
        ("tap", "tap=…"),
        ("none=1", "no value"),
        (
            "bridge=br0",
            "there is: user, tap, switch, none, mac, queues, mtu, net, net6, forward, host-loopback, bps",
        ),
        ("none,mac=01:00:00:00:00:01", "group"),
        ("none,mac=x", "02:00:00:00:00:01"),
        ("tap=0123456789abcdef", "15 letters"),
        ("switch=../lan", "lan-1"),
        ("none,none", "twice"),
        ("none,", "empty option"),
        ("user=1", "no value"),
        ("user,tap=a", "say one thing"),
        ("user,net=10.0.2.1/24", "10.0.2.0/24"),
        ("user,forward=80", "8080:80"),
        ("user,forward", "forward=…"),
        ("user,mtu=65521", "65520 at most"),
        ("user,queues=2", "everything else one"),
        ("none,forward=80:80", "option of user"),
        ("tap=a,host-loopback", "option of user"),
        ("tap=a,queues=0", "queues"),
        ("tap=a,queues=257", "1 to 256"),
        ("switch=a,queues=2", "everything else one"),
        ("none,mtu=67", "1280"),
        ("none,mtu=65536", "mtu"),
        ("none,bps=fast", "bps=100M"),
        ("none,bps-burst=1M", "add bps="),
    ] {
        let error = text.parse::<NetSpec>().unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
    for json in [
        r#"{"connection":{"tap":"a/b"}}"#,
        r#"{"connection":"none","queues":0}"#,
        r#"{"connection":"none","speed":1}"#,
        r#"{"mtu":1500}"#,
    ] {
        assert!(serde_json::from_str::<NetSpec>(json).is_err(), "{json}");
    }
}

#[test]
fn nothing_can_always_be_connected_to() {
    let port = "web-0".parse().unwrap();
    let backend = spec("none").connect(Path::new("/no/such"), &port).unwrap();
    assert!(!backend.link());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "((user|forward|tap|switch|none|mac|queues|mtu|bps|iops)=?[a0:2,]{0,4}){0,5}") {
        if let Ok(spec) = text.parse::<NetSpec>() {
            prop_assert_eq!(spec.to_string().parse::<NetSpec>().unwrap(), spec.clone());
            let json = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<NetSpec>(&json).unwrap(), spec);
        }
    }
}

//! Providers, keyrings, keys and grants.

use crate::keys::{
    dropping, escrow, exported, grants, imported, kek_rotation, keyring_grants, many, nodes,
    policy, providers, root_rotation, roots, rotation, verify,
};
use crate::sql::entry::sql_functions;

sql_functions! {
    Decides {
        acknowledge_node => nodes::acknowledge_node;
        add_provider => providers::add_provider;
        add_root => roots::add_root;
        alter_provider => providers::alter_provider;
        create_key => rotation::create_key;
        create_keys => many::create_keys;
        create_keyring => rotation::create_keyring;
        drop_key => dropping::drop_key;
        drop_keyring => dropping::drop_keyring;
        drop_node => nodes::drop_node;
        drop_provider => dropping::drop_provider;
        drop_root => roots::drop_root;
        grant_key => grants::grant_key;
        grant_keyring => keyring_grants::grant_keyring;
        import_catalog => imported::import_catalog;
        mark_kek_compromised => kek_rotation::mark_kek_compromised;
        move_keyring => roots::move_keyring;
        record_drill => escrow::record_drill;
        record_escrow_check => escrow::record_escrow_check;
        register_escrow => escrow::register_escrow;
        register_node => nodes::register_node;
        retire_escrow => escrow::retire_escrow;
        revoke_key => grants::revoke_key;
        revoke_keyring => keyring_grants::revoke_keyring;
        rotate_kek => kek_rotation::rotate_kek;
        rotate_key => rotation::rotate_key;
        rotate_root => root_rotation::rotate_root;
        set_compression => policy::set_compression;
        set_cryptoperiods => policy::set_cryptoperiods;
        set_custodian => escrow::set_custodian;
        set_kek_cryptoperiod => kek_rotation::set_kek_cryptoperiod;
        set_root_interval => root_rotation::set_root_interval;
        set_rotation_interval => policy::set_rotation_interval;
        set_search_limit => policy::set_search_limit;
        set_usage_bound => policy::set_usage_bound;
    }
    Asks {
        check_provider => providers::check_provider;
        check_roots => roots::check_roots;
        export_catalog => exported::export_catalog;
        node_report => nodes::node_report;
        verify_keys => verify::verify_keys;
    }
    Harmless {
        has_key_privilege => grants::has_key_privilege;
    }
}

//! Authentication, permissions, quotas.

use bytes::Bytes;

use crate::wire::message;

message! {
    /// Versions 0 to 1.
    pub struct SaslHandshakeRequest: flexible 32767 {
        mechanism: Box<str>, 0;
    }

    /// Versions 0 to 1.
    pub struct SaslHandshakeResponse: flexible 32767 {
        error_code: i16, 0;
        mechanisms: Vec<Box<str>>, 0;
    }

    /// Versions 0 to 2.
    pub struct SaslAuthenticateRequest: flexible 2 {
        auth_bytes: Bytes, 0;
    }

    /// Versions 0 to 2.
    pub struct SaslAuthenticateResponse: flexible 2 {
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        auth_bytes: Bytes, 0;
        session_lifetime_ms: i64, 1;
    }

    /// Versions 1 to 3.
    pub struct DescribeAclsRequest: flexible 2 {
        resource_type_filter: i8, 1;
        resource_name_filter: Option<Box<str>>, 1 = Some("".into());
        pattern_type_filter: i8, 1 = 3;
        principal_filter: Option<Box<str>>, 1 = Some("".into());
        host_filter: Option<Box<str>>, 1 = Some("".into());
        operation: i8, 1;
        permission_type: i8, 1;
    }

    /// Versions 1 to 3.
    pub struct AclDescription: flexible 2 {
        principal: Box<str>, 1;
        host: Box<str>, 1;
        operation: i8, 1;
        permission_type: i8, 1;
    }

    /// Versions 1 to 3.
    pub struct DescribeAclsResource: flexible 2 {
        resource_type: i8, 1;
        resource_name: Box<str>, 1;
        pattern_type: i8, 1 = 3;
        acls: Vec<AclDescription>, 1;
    }

    /// Versions 1 to 3.
    pub struct DescribeAclsResponse: flexible 2 {
        throttle_time_ms: i32, 1;
        error_code: i16, 1;
        error_message: Option<Box<str>>, 1 = Some("".into());
        resources: Vec<DescribeAclsResource>, 1;
    }

    /// Versions 1 to 3.
    pub struct AclCreation: flexible 2 {
        resource_type: i8, 1;
        resource_name: Box<str>, 1;
        resource_pattern_type: i8, 1 = 3;
        principal: Box<str>, 1;
        host: Box<str>, 1;
        operation: i8, 1;
        permission_type: i8, 1;
    }

    /// Versions 1 to 3.
    pub struct CreateAclsRequest: flexible 2 {
        creations: Vec<AclCreation>, 1;
    }

    /// Versions 1 to 3.
    pub struct AclCreationResult: flexible 2 {
        error_code: i16, 1;
        error_message: Option<Box<str>>, 1 = Some("".into());
    }

    /// Versions 1 to 3.
    pub struct CreateAclsResponse: flexible 2 {
        throttle_time_ms: i32, 1;
        results: Vec<AclCreationResult>, 1;
    }

    /// Versions 1 to 3.
    pub struct DeleteAclsFilter: flexible 2 {
        resource_type_filter: i8, 1;
        resource_name_filter: Option<Box<str>>, 1 = Some("".into());
        pattern_type_filter: i8, 1 = 3;
        principal_filter: Option<Box<str>>, 1 = Some("".into());
        host_filter: Option<Box<str>>, 1 = Some("".into());
        operation: i8, 1;
        permission_type: i8, 1;
    }

    /// Versions 1 to 3.
    pub struct DeleteAclsRequest: flexible 2 {
        filters: Vec<DeleteAclsFilter>, 1;
    }

    /// Versions 1 to 3.
    pub struct DeleteAclsFilterResult: flexible 2 {
        error_code: i16, 1;
        error_message: Option<Box<str>>, 1 = Some("".into());
        matching_acls: Vec<DeleteAclsMatchingAcl>, 1;
    }

    /// Versions 1 to 3.
    pub struct DeleteAclsMatchingAcl: flexible 2 {
        error_code: i16, 1;
        error_message: Option<Box<str>>, 1 = Some("".into());
        resource_type: i8, 1;
        resource_name: Box<str>, 1;
        pattern_type: i8, 1 = 3;
        principal: Box<str>, 1;
        host: Box<str>, 1;
        operation: i8, 1;
        permission_type: i8, 1;
    }

    /// Versions 1 to 3.
    pub struct DeleteAclsResponse: flexible 2 {
        throttle_time_ms: i32, 1;
        filter_results: Vec<DeleteAclsFilterResult>, 1;
    }

    /// Version 0.
    pub struct DescribeUserScramCredentialsRequest: flexible 0 {
        users: Option<Vec<UserName>>, 0 = Some(Vec::new());
    }

    /// Version 0.
    pub struct UserName: flexible 0 {
        name: Box<str>, 0;
    }

    /// Version 0.
    pub struct CredentialInfo: flexible 0 {
        mechanism: i8, 0;
        iterations: i32, 0;
    }

    /// Version 0.
    pub struct DescribeUserScramCredentialsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        results: Vec<DescribeUserScramCredentialsResult>, 0;
    }

    /// Version 0.
    pub struct DescribeUserScramCredentialsResult: flexible 0 {
        user: Box<str>, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        credential_infos: Vec<CredentialInfo>, 0;
    }

    /// Version 0.
    pub struct AlterUserScramCredentialsRequest: flexible 0 {
        deletions: Vec<ScramCredentialDeletion>, 0;
        upsertions: Vec<ScramCredentialUpsertion>, 0;
    }

    /// Version 0.
    pub struct ScramCredentialDeletion: flexible 0 {
        name: Box<str>, 0;
        mechanism: i8, 0;
    }

    /// Version 0.
    pub struct ScramCredentialUpsertion: flexible 0 {
        name: Box<str>, 0;
        mechanism: i8, 0;
        iterations: i32, 0;
        salt: Bytes, 0;
        salted_password: Bytes, 0;
    }

    /// Version 0.
    pub struct AlterUserScramCredentialsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        results: Vec<AlterUserScramCredentialsResult>, 0;
    }

    /// Version 0.
    pub struct AlterUserScramCredentialsResult: flexible 0 {
        user: Box<str>, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 1.
    pub struct ComponentData: flexible 1 {
        entity_type: Box<str>, 0;
        match_type: i8, 0;
        _match: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 1.
    pub struct DescribeClientQuotasRequest: flexible 1 {
        components: Vec<ComponentData>, 0;
        strict: bool, 0;
    }

    /// Versions 0 to 1.
    pub struct DescribeClientQuotasResponse: flexible 1 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        entries: Option<Vec<EntryData>>, 0 = Some(Vec::new());
    }

    /// Versions 0 to 1.
    pub struct EntityData: flexible 1 {
        entity_type: Box<str>, 0;
        entity_name: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 1.
    pub struct EntryData: flexible 1 {
        entity: Vec<EntityData>, 0;
        values: Vec<ValueData>, 0;
    }

    /// Versions 0 to 1.
    pub struct ValueData: flexible 1 {
        key: Box<str>, 0;
        value: f64, 0;
    }

    /// Versions 0 to 1.
    pub struct AlterClientQuotasRequest: flexible 1 {
        entries: Vec<AlteredEntry>, 0;
        validate_only: bool, 0;
    }

    /// Versions 0 to 1.
    pub struct AlteredEntry: flexible 1 {
        entity: Vec<EntityData>, 0;
        ops: Vec<OpData>, 0;
    }

    /// Versions 0 to 1.
    pub struct OpData: flexible 1 {
        key: Box<str>, 0;
        value: f64, 0;
        remove: bool, 0;
    }

    /// Versions 0 to 1.
    pub struct AlterClientQuotasResponse: flexible 1 {
        throttle_time_ms: i32, 0;
        entries: Vec<AlteredEntryResult>, 0;
    }

    /// Versions 0 to 1.
    pub struct AlteredEntryResult: flexible 1 {
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        entity: Vec<EntityData>, 0;
    }
}

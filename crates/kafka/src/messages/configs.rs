//! Configuration.

use crate::wire::message;

message! {
    /// Versions 1 to 4.
    pub struct DescribeConfigsRequest: flexible 4 {
        resources: Vec<DescribeConfigsResource>, 1;
        include_synonyms: bool, 1;
        include_documentation: bool, 3;
    }

    /// Versions 1 to 4.
    pub struct DescribeConfigsResource: flexible 4 {
        resource_type: i8, 1;
        resource_name: Box<str>, 1;
        configuration_keys: Option<Vec<Box<str>>>, 1 = Some(Vec::new());
    }

    /// Versions 1 to 4.
    pub struct DescribeConfigsResourceResult: flexible 4 {
        name: Box<str>, 1;
        value: Option<Box<str>>, 1 = Some("".into());
        read_only: bool, 1;
        config_source: i8, 1 = -1;
        is_sensitive: bool, 1;
        synonyms: Vec<DescribeConfigsSynonym>, 1;
        config_type: i8, 3;
        documentation: Option<Box<str>>, 3 = Some("".into());
    }

    /// Versions 1 to 4.
    pub struct DescribeConfigsResponse: flexible 4 {
        throttle_time_ms: i32, 1;
        results: Vec<DescribeConfigsResult>, 1;
    }

    /// Versions 1 to 4.
    pub struct DescribeConfigsResult: flexible 4 {
        error_code: i16, 1;
        error_message: Option<Box<str>>, 1 = Some("".into());
        resource_type: i8, 1;
        resource_name: Box<str>, 1;
        configs: Vec<DescribeConfigsResourceResult>, 1;
    }

    /// Versions 1 to 4.
    pub struct DescribeConfigsSynonym: flexible 4 {
        name: Box<str>, 1;
        value: Option<Box<str>>, 1 = Some("".into());
        source: i8, 1;
    }

    /// Versions 0 to 1.
    pub struct AlterConfigsResource: flexible 1 {
        resource_type: i8, 0;
        resource_name: Box<str>, 0;
        configs: Vec<AlterableConfig>, 0;
    }

    /// Versions 0 to 1.
    pub struct AlterableConfig: flexible 1 {
        name: Box<str>, 0;
        config_operation: i8, 0;
        value: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 1.
    pub struct IncrementalAlterConfigsRequest: flexible 1 {
        resources: Vec<AlterConfigsResource>, 0;
        validate_only: bool, 0;
    }

    /// Versions 0 to 1.
    pub struct AlterConfigsResourceResponse: flexible 1 {
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        resource_type: i8, 0;
        resource_name: Box<str>, 0;
    }

    /// Versions 0 to 1.
    pub struct IncrementalAlterConfigsResponse: flexible 1 {
        throttle_time_ms: i32, 0;
        responses: Vec<AlterConfigsResourceResponse>, 0;
    }

    /// Versions 0 to 2.
    pub struct AlterConfigsRequest: flexible 2 {
        resources: Vec<ReplaceConfigsResource>, 0;
        validate_only: bool, 0;
    }

    /// Versions 0 to 2.
    pub struct ReplaceConfigsResource: flexible 2 {
        resource_type: i8, 0;
        resource_name: Box<str>, 0;
        configs: Vec<ReplacedConfig>, 0;
    }

    /// Versions 0 to 2.
    pub struct ReplacedConfig: flexible 2 {
        name: Box<str>, 0;
        value: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 2.
    pub struct ReplaceConfigsResourceResponse: flexible 2 {
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        resource_type: i8, 0;
        resource_name: Box<str>, 0;
    }

    /// Versions 0 to 2.
    pub struct AlterConfigsResponse: flexible 2 {
        throttle_time_ms: i32, 0;
        responses: Vec<ReplaceConfigsResourceResponse>, 0;
    }

    /// Versions 0 to 1.
    pub struct ListConfigResourcesRequest: flexible 0 {
        resource_types: Vec<i8>, 1;
    }

    /// Versions 0 to 1.
    pub struct ConfigResource: flexible 0 {
        resource_name: Box<str>, 0;
        resource_type: i8, 1 = 16;
    }

    /// Versions 0 to 1.
    pub struct ListConfigResourcesResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        config_resources: Vec<ConfigResource>, 0;
    }
}

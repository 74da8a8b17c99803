"""Every data set in a few rows, in the publisher's layout, with rows that cannot be used; values are made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Original:
    """A tiny data set and what must become of it."""

    files: dict[str, str | bytes]
    log: str
    """The file whose first line is spoilt to see it refused."""

    dropped: dict[str, int]
    kinds: dict[str, int]
    users: int
    items: int
    first: dict[str, Any]
    """Columns of the first event."""

    table: dict[str, str] = field(default_factory=dict)
    """File of OUT -> its first two lines."""

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder


ODD = "another number of fields than the layout has"

YOOCHOOSE = Original(
    files={
        "yoochoose-clicks.dat": (
            "2,2014-04-07T13:57:00.000Z,20,5\n"
            "1,2014-04-07T10:51:09.277Z,10,0\n"
            "1,2014-04-07T10:54:09.868Z,10,S\n"
            "1,2014-04-07 at noon,10,0\n"
            "1,2014-04-07T10:57:00.306Z\n"
            "x,2014-04-07T10:57:00.306Z,10,0\n"
            '"1,2014-04-07T10:57:00.306Z,10,0\n'
            "2,2014-04-07T14:57:00.000Z,20,7\n"
            "2,2014-04-07T15:57:00.000Z,20,7\n"
        ),
        "yoochoose-buys.dat": (
            "2,2014-04-07T15:58:00.500Z,20,1046,2\n2,2014-04-07T15:59:00.000Z,10,0,0\n"
            "2,2014-04-07T15:59:00.000Z,10,1e999,1\n2,2014-04-07T15:59:00.000Z,10,-1,1\n"
        ),
        "yoochoose-test.dat": "9,2014-04-07T15:59:00.000Z,99,0\n",
    },
    log="yoochoose-clicks.dat",
    dropped={ODD: 1, "price: below 0": 1, "price: no finite number": 1, "session: no id": 2, "timestamp: no time": 1},
    kinds={"click": 5, "purchase": 2},
    users=2,
    items=2,
    first={"user": "1", "session": "1", "item": "10", "kind": "click", "time": 1396867869.277},
    table={"items.csv": '"item","category"\n"10",\n'},
)

DIGINETICA = Original(
    files={
        "train-item-views.csv": (
            "sessionId;userId;itemId;timeframe;eventdate\n"
            "2;77;30;1500;2016-05-10\n1;NA;10;5000;2016-05-09\n1;NA;11;100;2016-05-09\n"
            "1;NA;11;-5;2016-05-09\n1;NA;11;5;2016-02-30\n1;NA;;5;2016-05-09\n"
        ),
        "train-purchases.csv": (
            "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n2;77;9000;2016-05-10;41;30\n"
        ),
        "product-categories.csv": "itemId;categoryId\n10;3\n30;4\n",
        "products.csv": "itemId;pricelog2;product.name.tokens\n10;8;1,2,3\n11;9;4\n",
        "train-queries.csv": (
            "queryId;sessionId;userId;timeframe;duration;eventdate;searchstring.tokens;categoryId;items;is.test\n"
            "5;1;NA;200;40;2016-05-09;;3;30,10,10,11;FALSE\n6;1;NA;900;40;2016-05-09;;3;30;TRUE\n"
            "5;1;NA;950;40;2016-05-09;;3;11;FALSE\n7;1;NA;950;40;2016-05-09;;3;11,x;FALSE\n"
        ),
        "train-clicks.csv": "queryId;timeframe;itemId\n5;300;11\n5;100;30\n5;300;99\n",
    },
    log="train-item-views.csv",
    dropped={"eventdate: no time": 1, "itemId: no id": 1, "timeframe: below 0": 1},
    kinds={"click": 3, "purchase": 1},
    users=2,
    items=3,
    first={"user": "s1", "session": "1", "item": "11", "kind": "click", "time": 1462752000.1},
    table={"items.csv": '"item","category","price_log2","name"\n"10","3","8","1,2,3"\n'},
)

RETAILROCKET = Original(
    files={
        "events.csv": (
            "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n1433224214164,992329,transaction,248676,4000\n"
            "1433221999827,992329,addtocart,248676,\n1433221955914,483717,looked,253185,\n0,1,view,2,\n"
        ),
        "item_properties_part1.csv": (
            "timestamp,itemid,property,value\n1435460400000,355908,categoryid,1338\n"
            "1441508400000,248676,888,1116713 960601 n277.200\n1439089200000,355908,categoryid,1114\n"
        ),
        "item_properties_part2.csv": "timestamp,itemid,property,value\n1433041200000,355908,categoryid,7\n",
        "category_tree.csv": "categoryid,parentid\n1114,169\n169,\n",
    },
    log="events.csv",
    dropped={
        "event: none of view, addtocart, transaction": 1,
        "property: another one, not used": 1,
        "timestamp: below 1": 1,
    },
    kinds={"click": 2, "purchase": 1},
    users=2,
    items=2,
    first={"user": "257597", "item": "355908", "kind": "click", "time": 1433221332.117},
    table={"items.csv": '"item","category","parent"\n"355908","1114","169"\n'},
)

MOVIELENS = Original(
    files={
        "ml-1m/ratings.dat": (
            "2::1193::4::978300761\n1::1193::5::978300760\n1::661::3::978302109\n1::661::9::978302109\n"
            "1::661::3\n1:x:661::3::978302109\n"
        ),
        "ml-1m/movies.dat": (
            b"661::James: the Giant Peach (1996)::Animation|Children's\n"
            + "1193::Amélie (2001)::Drama\n".encode("latin-1")
            + b"no film\n"
        ),
    },
    log="ml-1m/ratings.dat",
    dropped={ODD: 2, "no film, title and genres between ::": 1, "rating: above 5": 1},
    kinds={"rating": 3},
    users=2,
    items=2,
    first={"user": "1", "item": "1193", "kind": "rating", "time": 978300760.0, "value": 5.0},
    table={
        "items.csv": '"item","category","title"\n"661","Animation|Children\'s","James: the Giant Peach (1996)"\n',
    },
)

TMALL = Original(
    files={
        "user_log_format1.csv": (
            "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
            "328862,323294,833,2882,2661,829,0\n328862,844400,1271,2882,,0511,3\n234512,323294,833,2882,2661,1111,2\n"
            "1,1,1,1,1,230,0\n1,1,1,1,1,1111,4\n1,1,1,1,1,1350,0\n"
        ),
        "user_info_format1.csv": "user_id,age_range,gender\n328862,6,1\n234512,,\n",
    },
    log="user_log_format1.csv",
    dropped={
        "action_type: none of 0, 1, 2, 3": 1,
        "time_stamp: above 1231": 1,
        "time_stamp: no day of the year": 1,
    },
    kinds={"click": 2, "purchase": 1},
    users=2,
    items=2,
    first={"user": "328862", "item": "844400", "kind": "click", "time": 1399766400.0, "session": "328862-511"},
    table={
        "items.csv": '"item","category","seller","brand"\n"323294","833","2882","2661"\n',
        "users.csv": '"user","age_range","gender"\n"328862","6","1"\n',
    },
)

_GLOBO = (
    "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,click_environment,"
    "click_deviceGroup,click_os,click_country,click_region,click_referrer_type\n"
)
GLOBO = Original(
    files={
        "clicks/clicks_hour_001.csv": _GLOBO
        + "59,1506826329267796,1506826329000,2,234853,1506829800026,4,3,2,1,21,1\n",
        "clicks/clicks_hour_000.csv": (
            _GLOBO + "0,1506825423271737,1506825423000,2,157541,1506826828020,4,3,20,1,20,2\n"
            "0,1506825423271737,1506825423000,2,,1506826858020,4,3,20,1,20,2\n"
            "1,1506825426267738,1506825426000,2,235840,1506827017951,4,1,17,1,16,2\n"
        ),
        "clicks_sample.csv": _GLOBO + "0,1506825423271737,1506825423000,2,157541,1506826828020,4,3,20,1,20,2\n",
        "articles_metadata.csv": (
            "article_id,category_id,created_at_ts,publisher_id,words_count\n157541,281,1506825000500,0,168\n"
        ),
    },
    log="clicks/clicks_hour_000.csv",
    dropped={"click_article_id: no id": 1},
    kinds={"click": 3},
    users=3,
    items=3,
    first={"user": "0", "session": "1506825423271737", "item": "157541", "kind": "click", "time": 1506826828.02},
    table={
        "items.csv": '"item","category","created","publisher","words"\n"157541","281",1506825000.5,"0","168"\n',
    },
)

_OBD = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3,"
    "user-item_affinity_0\n"
)
OPEN_BANDIT = Original(
    files={
        "bts/men/men.csv": (
            _OBD + "0,2019-11-24 00:00:19.715857+00:00,1,3,1,0.5,a,b,c,d,0.0\n"
            "1,2019-11-24 00:00:17+00:00,0,2,0,0.125,a,b,c,d,0.0\n"
            "2,2019-11-24 00:00:18.5+00:00,0,1,1,0.25,a,b,c,e,0.0\n"
            "3,2019-11-24 00:00:20+00:00,1,3,0,0.0,a,b,c,d,0.0\n"
            "4,2019-11-24 00:00:20+00:00,1,4,0,0.5,a,b,c,d,0.0\n"
            "5,2019-11-24 00:00:20+00:00,1,3,2,0.5,a,b,c,d,0.0\n"
            "6,2019-11-24 00:00:20+00:00,1,3,0,1.5,a,b,c,d,0.0\n"
            "7,2019-11-24 00:00:20+00:00,1,3,0,nan,a,b,c,d,0.0\n"
        ),
        "bts/men/item_context.csv": (
            ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n0,0,-0.5,x,y,z\n1,1,0.5,x,y,w\n"
        ),
    },
    log="bts/men/men.csv",
    dropped={
        "click: above 1": 1,
        "position: above 3": 1,
        "propensity_score: above 1": 1,
        "propensity_score: no number": 1,
        "propensity_score: not above 0": 1,
    },
    kinds={"click": 2, "impression": 3},
    users=2,
    items=2,
    first={"item": "0", "kind": "impression", "time": 1574553617.0, "slate": "bts-1", "slot": 1, "propensity": 0.125},
    table={
        "items.csv": '"item","category","item_feature_0","item_feature_1","item_feature_2","item_feature_3"\n'
        '"0",,"-0.5","x","y","z"\n',
    },
)

_KUAI = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
KUAIRAND = Original(
    files={
        "data/log_standard_4_08_to_4_21_pure.csv": (
            _KUAI + "0,3784,20220408,1100,1649405999278,1,0,0,0,0,0,1,35418,14000,0,0,0,0,1\n"
            "0,4,20220408,1100,1649405998000,0,1,0,0,0,1,0,0,14000,0,0,0,0,1\n"
            "0,4,20220408,1100,1649405998000,2,0,0,0,0,0,0,0,14000,0,0,0,0,1\n"
        ),
        "data/log_random_4_22_to_5_08_pure.csv": (
            _KUAI + "1,4,20220422,600,1650578406273,0,0,0,0,0,0,0,1209,84000,0,0,0,1,1\n"
        ),
        "data/video_features_basic_pure.csv": (
            'video_id,author_id,video_type,tag\n0,7349781,NORMAL,39\n4,2103883,AD,"2,12"\n'
        ),
        "data/video_features_statistic_pure.csv": "video_id,counts\n0,1\n",
        "data/user_features_pure.csv": 'user_id,user_active_degree,fans_user_num_range\n0,full_active,"[100,1k)"\n',
    },
    log="data/log_random_4_22_to_5_08_pure.csv",
    dropped={"is_click: above 1": 1},
    kinds={"click": 1, "impression": 3, "skip": 1},
    users=2,
    items=2,
    first={"user": "0", "item": "4", "kind": "impression", "time": 1649405998.0, "slate": "policy-1-1", "slot": 0},
    table={
        "items.csv": '"item","category","author_id","video_type"\n"0","39","7349781","NORMAL"\n',
        "users.csv": '"user","user_active_degree","fans_user_num_range"\n"0","full_active","[100,1k)"\n',
    },
)

MIND = Original(
    files={
        "train/behaviors.tsv": (
            "2\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-0 N35729-1 N7-0 N35729-0\n"
            "1\tU91836\t11/10/2019 12:00:03 PM\t\tN7-0\n"
            "1\tU91836\t11/10/2019 12:00:04 PM\t\tN7-0\n"
            "3\tU91836\t11/10/2019 12:00:04 PM\t\tN7 N9\n"
            "4\tU91836\t11/10/2019 12:00:04 PM\t\tN7-1 N9\n"
            "5\tU91836\t2019-11-10\t\tN7-1\n"
            "6\tU91836\t11/10/2019 12:00:04 PM\t\t\n"
            "7\tU91836\n"
        ),
        "train/news.tsv": (
            'N55689\tsports\tfootball_nfl\tA "quoted title\tShort\thttps://example.org/a\t[]\t[]\n'
            "N7\tnews\tnewsworld\tSecond, with a comma\t\thttps://example.org/b\t[]\t[]\n"
        ),
    },
    log="train/behaviors.tsv",
    dropped={
        ODD: 1,
        "impression: id came before": 1,
        "impressions: no marks of clicks, as in the test split": 1,
        "impressions: none": 1,
        "impressions: not all of the form N1-0": 1,
        "time: no time": 1,
    },
    kinds={"click": 1, "impression": 4},
    users=2,
    items=3,
    first={"user": "U91836", "item": "N7", "kind": "impression", "time": 1573387203.0, "slate": "0-1", "slot": 0},
    table={
        "items.csv": '"item","category","subcategory","title","abstract","url"\n'
        '"N55689","sports","football_nfl","A ""quoted title","Short","https://example.org/a"\n',
    },
)

COAT = Original(
    files={
        "train.ascii": "0 5 0 0\n1 0 0 7\n",
        "test.ascii": "0 2 0 4\n3 0 0 0\n",
        "propensities.ascii": "1e-1 2e-1 0.5 0.5\n2.5e-1 0.5 0.5 0.5\n",
        "user_item_features/item_features.ascii": "1 0 1 0\n0 1 0 1\n1 0 0 1\n0 1 1 0\n",
        "user_item_features/item_features_map.txt": "gender:men\ngender:women\njackettype:bomber\njackettype:other",
        "user_item_features/user_features.ascii": "1 0\n0 1\n",
        "user_item_features/user_features_map.txt": "age:20-30\nage:over 60",
    },
    log="train.ascii",
    dropped={"stars: none of 1 to 5": 1},
    kinds={"impression": 3, "rating": 5},
    users=2,
    items=3,
    first={"user": "0", "item": "1", "kind": "rating", "time": 0.0, "value": 5.0, "propensity": 0.2, "slate": ""},
    table={
        "items.csv": '"item","category","gender"\n"0","bomber","men"\n',
        "users.csv": '"user","age"\n"0","20-30"\n',
    },
)

ORIGINALS: dict[str, Original] = {
    "coat": COAT,
    "diginetica": DIGINETICA,
    "globo": GLOBO,
    "kuairand": KUAIRAND,
    "mind": MIND,
    "movielens": MOVIELENS,
    "open-bandit": OPEN_BANDIT,
    "retailrocket": RETAILROCKET,
    "tmall": TMALL,
    "yoochoose": YOOCHOOSE,
}
